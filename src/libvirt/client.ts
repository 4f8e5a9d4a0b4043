/**
 * The daemon's ear at libvirt: which domains run, and what happens to them, over libvirt-dbus.
 *
 * Both ends of that come and go without telling. libvirt-dbus connects to libvirtd only when it is called: it
 * sends no event before the first call, and none after libvirtd was restarted until the next one. So every
 * driver is called now and then; each answer is compared with what was known, and when they differ the daemon
 * is given the whole list. An event is thus news that comes early, and nothing is lost for ever when one does
 * not come.
 */
import { EventEmitter } from 'node:events';
import type { Message } from 'dbus-next';
import { MessageType } from 'dbus-next';
import { log } from '../log/log.ts';
import { type Bus, openBus } from '../system/bus.ts';
import {
  type Driver,
  disksWithErrors,
  domainName,
  domainPath,
  domainState,
  driverPath,
  hasJob,
  hasOutgoingJob,
  isStoppedByError,
  libvirtName,
  listActiveDomains,
  liveXml,
  resumeDomain,
  setMetadata,
  uuidOfPath,
} from './calls.ts';
import { driversOfHost } from './drivers.ts';

export interface DomainEvent {
  uuid: string;
  /** The uuid again while libvirt has not told the name. */
  name: string;
  /** virDomainEventType: 2 started, 3 suspended, 4 resumed, 5 stopped. */
  event: number;
  /** Depends on the event; 1 for started, suspended, resumed and 3 for stopped: migrated. */
  detail: number;
}

export interface ActiveDomain {
  uuid: string;
  name: string;
  /** virDomainState: 1 running, 3 paused; null where libvirt did not answer for this domain in time. */
  state: number | null;
}

export interface LibvirtClientOptions {
  /** 'system', or the address of the bus that libvirt-dbus is on. */
  address: string;
  /** By default those that this host can have. */
  drivers?: readonly Driver[];
  /** Milliseconds between two looks at a driver that answers; 10,000 by default. */
  interval?: number;
}

export interface LibvirtEvents {
  event: [DomainEvent];
  /**
   * All active domains of one driver, when they are first known and whenever they, or their states, are not
   * what was known.
   */
  domains: [readonly ActiveDomain[]];
}

/** Milliseconds; doubles up to the last for what does not answer. */
const firstPause = 1000;
const longestPause = 60_000;

/** What is known of one driver. */
interface Watched {
  driver: Driver;
  /** It has answered since we began: this host has it. */
  present: boolean;
  /** Active domains by path; undefined while it does not answer. */
  known: Map<string, ActiveDomain> | undefined;
  /** A look is under way. */
  looking: boolean;
  /** Looks that were asked for so far. */
  asked: number;
  pause: number;
  timer: NodeJS.Timeout | undefined;
}

export class LibvirtClient extends EventEmitter<LibvirtEvents> {
  readonly #options: LibvirtClientOptions;
  readonly #watched: Watched[];
  #bus: Bus | undefined;
  #reconnect: NodeJS.Timeout | undefined;
  #busPause = firstPause;
  #closed = false;

  constructor(options: LibvirtClientOptions) {
    super();
    this.#options = options;
    this.#watched = (options.drivers ?? driversOfHost()).map((driver) => ({
      driver,
      present: false,
      known: undefined,
      looking: false,
      asked: 0,
      pause: firstPause,
      timer: undefined,
    }));
  }

  /** Begins, and never gives up; nothing waits for it. */
  start(): void {
    void this.#connect();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#reconnect);
    this.#forget();
    this.#bus?.close();
    this.#bus = undefined;
  }

  /** Writes our metadata (originMetadata) into a running domain.
   * @throws Error, libvirt's or ours, when that was not possible. */
  async setOriginMetadata(uuid: string, xml: string): Promise<void> {
    await this.#aboutDomain(uuid, (bus, path) => setMetadata(bus, path, xml));
  }

  /** The live XML of a domain. */
  async domainXml(uuid: string): Promise<string> {
    return await this.#aboutDomain(uuid, liveXml);
  }

  /** A running domain is being migrated to another host. @throws Error when libvirt cannot be asked */
  async migratesAway(uuid: string): Promise<boolean> {
    return await this.#aboutDomain(uuid, hasOutgoingJob);
  }

  /**
   * Targets (vda) of the disks whose errors have stopped a domain; empty where that is not why it stands
   * still, if it does; null: libvirt migrates or saves it, ask again later.
   */
  async disksThatStopped(uuid: string): Promise<string[] | null> {
    return await this.#aboutDomain(uuid, async (bus, path) => {
      if (!(await isStoppedByError(bus, path))) return [];
      return (await hasJob(bus, path)) ? null : await disksWithErrors(bus, path);
    });
  }

  /** Has a paused domain run. @throws Error, libvirt's or ours */
  async resume(uuid: string): Promise<void> {
    await this.#aboutDomain(uuid, resumeDomain);
  }

  /** Asks the driver that is known to have the domain, else each that answers. */
  async #aboutDomain<T>(uuid: string, ask: (bus: Bus, path: string) => Promise<T>): Promise<T> {
    const bus = this.#bus;
    const answering = this.#watched.filter(({ known }) => known !== undefined);
    const has = answering.filter(({ driver, known }) => known?.has(domainPath(driver, uuid)));
    // One that is silent for now may have the domain: the others' "not found" is no answer then.
    const silent = this.#watched.some(({ present, known }) => present && known === undefined);
    if (bus === undefined || answering.length === 0 || (has.length === 0 && silent)) {
      throw new Error(
        `libvirt cannot be asked about domain ${uuid}: libvirt-dbus does not answer; is it installed and libvirtd running?`,
      );
    }
    let failure: unknown;
    for (const { driver } of has.length > 0 ? has : answering) {
      try {
        return await ask(bus, domainPath(driver, uuid));
      } catch (error) {
        failure ??= error;
      }
    }
    throw failure instanceof Error ? failure : new Error(String(failure));
  }

  async #connect(): Promise<void> {
    if (this.#closed) return;
    try {
      const bus = await openBus(this.#options.address, (reason) => {
        log.warning(`libvirt: the D-Bus connection has gone away (${reason}); trying again`, {
          id: 'bus-gone',
        });
        this.#bus = undefined;
        this.#forget();
        this.#reconnectLater();
      });
      // close() may have come while we waited.
      if (this.#isClosed()) {
        bus.close();
        return;
      }
      bus.connection.on('message', (message: Message) => this.#onMessage(message));
      this.#bus = bus;
      await bus.addMatch(`type='signal',sender='${libvirtName}',member='DomainEvent'`);
      await bus.addMatch(`type='signal',member='NameOwnerChanged',arg0='${libvirtName}'`);
      this.#busPause = firstPause;
      for (const watched of this.#watched) void this.#look(watched);
    } catch (error) {
      const level = this.#busPause === firstPause ? 'warning' : 'debug';
      log[level](`libvirt: no connection to its D-Bus, trying again: ${(error as Error).message}`);
      this.#bus?.close();
      this.#bus = undefined;
      this.#reconnectLater();
    }
  }

  #isClosed(): boolean {
    return this.#closed;
  }

  #reconnectLater(): void {
    if (this.#closed) return;
    clearTimeout(this.#reconnect);
    this.#reconnect = setTimeout(() => void this.#connect(), this.#busPause);
    this.#busPause = Math.min(this.#busPause * 2, longestPause);
  }

  #forget(): void {
    for (const watched of this.#watched) {
      clearTimeout(watched.timer);
      watched.known = undefined;
      watched.pause = firstPause;
    }
  }

  /** Looks at a driver, and goes on doing so in intervals. */
  async #look(watched: Watched): Promise<void> {
    clearTimeout(watched.timer);
    watched.asked += 1;
    if (watched.looking) return;
    watched.looking = true;
    const { asked } = watched;
    const pause = this.#bus === undefined ? firstPause : await this.#lookOnce(this.#bus, watched);
    watched.looking = false;
    if (this.#bus === undefined) return;
    if (watched.asked !== asked) void this.#look(watched);
    else watched.timer = setTimeout(() => void this.#look(watched), pause);
  }

  /** Resolves with the milliseconds to wait until the next look. */
  async #lookOnce(bus: Bus, watched: Watched): Promise<number> {
    const { driver, known } = watched;
    try {
      const found = new Map<string, ActiveDomain>();
      // One by one: libvirt-dbus has few threads, and a domain whose hook runs holds one until our deadline.
      for (const path of await listActiveDomains(bus, driver)) {
        found.set(path, await describe(bus, path, known?.get(path)));
      }
      if (this.#bus !== bus) return 0;
      watched.pause = firstPause;
      if (known === undefined) log.info(`libvirt: ${driver} answers; active domains: ${found.size}`);
      watched.known = found;
      watched.present = true;
      if (known === undefined || differ(known, found)) this.emit('domains', [...found.values()]);
      return this.#options.interval ?? 10_000;
    } catch (error) {
      if (this.#bus !== bus) return 0;
      const message = `libvirt: ${driver} does not answer: ${(error as Error).message}`;
      // A host without Xen never answers for it: that is no news.
      if (known === undefined) log.debug(message);
      else log.warning(message);
      watched.known = undefined;
      const { pause } = watched;
      watched.pause = Math.min(pause * 2, longestPause);
      return pause;
    }
  }

  #onMessage(message: Message): void {
    if (message.type !== MessageType.SIGNAL) return;
    if (message.member === 'NameOwnerChanged' && message.sender === 'org.freedesktop.DBus') {
      // libvirt-dbus came, went or was replaced: it has to be called before it says anything.
      if (message.body[2] === '') log.info('libvirt: libvirt-dbus has ended; it is called again in a while');
      for (const watched of this.#watched) {
        watched.known = undefined;
        watched.pause = firstPause;
        if (message.body[2] !== '') void this.#look(watched);
      }
      return;
    }
    const watched = this.#watched.find(({ driver }) => message.path === driverPath(driver));
    if (message.member !== 'DomainEvent' || message.signature !== 'oii' || watched === undefined) return;
    const [path, event, detail] = message.body as [string, number, number];
    const uuid = uuidOfPath(path);
    if (uuid === undefined) return;
    this.emit('event', { uuid, name: watched.known?.get(path)?.name ?? uuid, event, detail });
    // Defined and undefined (0, 1) change nothing that we know of; after the others the list may be another.
    if (event >= 2) void this.#look(watched);
  }
}

async function describe(bus: Bus, path: string, known: ActiveDomain | undefined): Promise<ActiveDomain> {
  const uuid = uuidOfPath(path) ?? path;
  const state = await domainState(bus, path).catch(() => null);
  if (known !== undefined && known.name !== uuid) return { ...known, state: state ?? known.state };
  return { uuid, state, name: await domainName(bus, path).catch(() => uuid) };
}

function differ(known: ReadonlyMap<string, ActiveDomain>, found: ReadonlyMap<string, ActiveDomain>): boolean {
  return (
    known.size !== found.size || [...found].some(([path, { state }]) => known.get(path)?.state !== state)
  );
}
