/**
 * org.xnbd1 on the bus: what the daemon shows of its exports and relocations, and the methods of an export.
 * Reading is for everyone whom the bus's policy lets (etc/org.xnbd1.conf); the methods are for root and the
 * daemon's own user, whatever the policy says.
 */
import dbus, { type Message, type Variant } from 'dbus-next';
import { chosenCap } from '../../config/caps.ts';
import { type BusMethod, busMethods } from '../../control/methods.ts';
import type { ExportStatus, VerificationStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import type { Choice } from '../../store/records/choices.ts';
import { type Bus, errorName, openBus, theBus } from '../../system/bus.ts';
import type { LimitsNow } from '../limits/limits.ts';
import { Announced } from './announced.ts';
import {
  type CompletedDisk,
  ExportInterface,
  exportPath,
  exportProperties,
  exportSignatures,
  limitProperties,
  ManagerInterface,
  RelocationInterface,
  type RelocationStatus,
  relocationPath,
  relocationProperties,
  relocationSignatures,
  rootPath,
  type WritableLimit,
  writableLimits,
} from './interfaces.ts';
import { ObjectTree } from './object-tree.ts';

const busName = 'org.xnbd1';
const managerName = 'org.xnbd1.Manager';
const exportName = 'org.xnbd1.Export';

export interface DBusServiceOptions {
  /** 'system', or the address of a bus. */
  address: string;
  version: string;
  /** Carries out a method of an export; what it throws goes to the caller, its message as one line. */
  call: (name: string, method: BusMethod, parameters: Record<string, string>) => Promise<unknown>;
  /** Of this moment. */
  limits: () => LimitsNow;
  /** Kept for all disks of the host, or of a peer. @throws as above */
  choose: (choice: Choice) => Promise<void>;
  /**
   * The bus has gone away: nothing is shown any more, and the service manager should start the daemon again.
   */
  onClosed: (reason: string) => void;
}

const invalidArguments = 'org.freedesktop.DBus.Error.InvalidArgs';

/** What root may ask for. */
interface Order {
  /** For messages. */
  what: string;
  /** Of its arguments. */
  signature: string;
  /** @returns what is answered. @throws Error of one line */
  run: () => Promise<string | undefined>;
}

class Refusal {
  readonly errorName: string;
  readonly message: string;

  constructor(errorName: string, message: string) {
    this.errorName = errorName;
    this.message = message;
  }
}

export class DBusService {
  readonly #bus: Bus;
  readonly #options: DBusServiceOptions;
  readonly #tree: ObjectTree;
  readonly #manager = new ManagerInterface(managerName);
  readonly #shown: Announced;
  /** Names of the exports by their object path. */
  readonly #exports = new Map<string, string>();

  private constructor(bus: Bus, options: DBusServiceOptions) {
    this.#bus = bus;
    this.#options = options;
    this.#tree = new ObjectTree(bus.connection, rootPath);
    const limits = limitProperties(options.limits());
    this.#shown = new Announced(this.#manager, { Version: options.version, ...limits });
    bus.connection.export(rootPath, this.#manager);
    bus.connection.addMethodHandler((message: Message) => this.#intercept(message));
  }

  /** Connects, shows the manager and takes the name org.xnbd1.
   * @throws Error when there is no bus, or it does not give us the name. */
  static async connect(options: DBusServiceOptions): Promise<DBusService> {
    const bus = await openBus(options.address, options.onClosed);
    try {
      const service = new DBusService(bus, options);
      await requestName(bus);
      return service;
    } catch (error) {
      bus.close();
      throw error;
    }
  }

  /** Shows the export, or what changed of it. `domain`: whose disk it is. */
  setExport(status: ExportStatus, domain = ''): void {
    const path = exportPath(status.name);
    this.#exports.set(path, status.name);
    this.#tree.set(
      path,
      { name: exportName, signatures: exportSignatures, create: (name) => new ExportInterface(name) },
      exportProperties(status, domain),
    );
  }

  removeExport(name: string): void {
    this.#exports.delete(exportPath(name));
    this.#tree.remove(exportPath(name));
  }

  /** Shows the relocation, or what changed of it. */
  setRelocation(status: RelocationStatus): void {
    this.#tree.set(
      relocationPath(status.uuid),
      {
        name: 'org.xnbd1.Relocation',
        signatures: relocationSignatures,
        create: (name) => new RelocationInterface(name),
      },
      relocationProperties(status),
    );
  }

  removeRelocation(uuid: string): void {
    this.#tree.remove(relocationPath(uuid));
  }

  /** Shows what changed of the limits of the host. */
  setLimits(now: LimitsNow): void {
    this.#shown.set({ ...this.#shown.values, ...limitProperties(now) });
  }

  relocationStarted({ uuid, domain, domainUuid }: RelocationStatus): void {
    this.#tree.flush();
    this.#manager.RelocationStarted(relocationPath(uuid), domain, domainUuid);
  }

  relocationCompleted({ uuid, domain, domainUuid }: RelocationStatus, disks: readonly CompletedDisk[]): void {
    this.#tree.flush();
    this.#manager.RelocationCompleted(relocationPath(uuid), domain, domainUuid, disks);
  }

  relocationFailed({ uuid, domain, domainUuid }: RelocationStatus, reason: string): void {
    this.#tree.flush();
    this.#manager.RelocationFailed(relocationPath(uuid), domain, domainUuid, reason);
  }

  originUnreachable({ name, origin, originUnreachableReason }: ExportStatus): void {
    this.#tree.flush();
    this.#manager.OriginUnreachable(exportPath(name), name, origin ?? '', originUnreachableReason ?? '');
  }

  originReachable({ name, origin }: ExportStatus): void {
    this.#tree.flush();
    this.#manager.OriginReachable(exportPath(name), name, origin ?? '');
  }

  relocationAlarm({ name }: ExportStatus, reason: string): void {
    this.#tree.flush();
    this.#manager.RelocationAlarm(exportPath(name), name, reason);
  }

  verificationFailed({ name, error }: ExportStatus, { different, differentBytes }: VerificationStatus): void {
    this.#tree.flush();
    const ranges = different.map(({ offset, length }) => [BigInt(offset), BigInt(length)] as const);
    this.#manager.VerificationFailed(exportPath(name), name, BigInt(differentBytes), ranges, error ?? '');
  }

  /** Leaves the bus. */
  close(): void {
    this.#tree.close();
    this.#shown.close();
    this.#bus.close();
  }

  /**
   * Takes the calls that dbus-next may not have: those that need to know the caller, and Set, which it would
   * obey although it refuses it.
   */
  #intercept(message: Message): boolean {
    const order = this.#orderOf(message);
    if (order === undefined) return false;
    if (order instanceof Refusal) this.#fail(message, order.errorName, order.message);
    else void this.#answer(message, order);
    return true;
  }

  /** What a call asks for; undefined: nothing that is ours to answer. */
  #orderOf(message: Message): Order | Refusal | undefined {
    const { path, member, interface: called } = message;
    if (called === 'org.freedesktop.DBus.Properties' && member === 'Set') return this.#setOrder(message);
    const body = message.body as string[];
    if (path === rootPath && called === managerName && member === 'SetPeerRate') {
      const [peer = '', rate = ''] = body;
      return {
        what: 'SetPeerRate',
        signature: 'ss',
        run: async () => {
          await this.#options.choose({ of: 'peer', peer, rate: chosenCap(rate) });
          return undefined;
        },
      };
    }
    const name = this.#exports.get(path);
    const known = busMethods.get(member);
    if (called !== exportName || name === undefined || known === undefined) return undefined;
    const { method, takes } = known;
    return {
      what: `${member} of export ${name}`,
      signature: 's'.repeat(takes.length),
      run: async () => {
        const parameters = Object.fromEntries(takes.map((key, at) => [key, body[at]!]));
        const result = await this.#options.call(name, method, parameters);
        return takes.length === 0 ? undefined : String(result);
      },
    };
  }

  /** A property that is written: the limits of the host may be. */
  #setOrder({ path, signature, body }: Message): Order | Refusal {
    const [of, property, value] = body as [string, string, Variant];
    const isLimit = path === rootPath && of === managerName && Object.hasOwn(writableLimits, property);
    if (!isLimit) {
      const which = Object.keys(writableLimits).join(' and ');
      return new Refusal(
        'org.freedesktop.DBus.Error.PropertyReadOnly',
        `properties of org.xnbd1 are read-only, but for ${which} of ${managerName}`,
      );
    }
    const limit = property as WritableLimit;
    if (signature !== 'ssv' || value.signature !== writableLimits[limit])
      return new Refusal(invalidArguments, `${limit} is of type ${writableLimits[limit]}`);
    return {
      what: `setting ${limit}`,
      signature,
      run: async () => {
        if (limit === 'Paused') await this.#options.choose({ of: 'all', paused: value.value as boolean });
        else await this.#options.choose({ of: 'host', rate: chosenCap(value.value as string) });
        return undefined;
      },
    };
  }

  async #answer(message: Message, { what, signature, run }: Order): Promise<void> {
    try {
      if (message.signature !== signature) {
        const takes = signature === '' ? 'no arguments' : `arguments of type ${signature}`;
        this.#fail(message, invalidArguments, `${message.member} takes ${takes}`);
        return;
      }
      const [uid] = await this.#bus.call({
        ...theBus,
        member: 'GetConnectionUnixUser',
        signature: 's',
        body: [message.sender],
      });
      if (uid !== 0 && uid !== process.getuid?.()) {
        log.warning(`D-Bus: user ${uid} asked for ${what}: refused`);
        const refused = 'org.freedesktop.DBus.Error.AccessDenied';
        this.#fail(message, refused, `${what} is for root only; user ${uid} asked`);
        return;
      }
      const result = await run();
      const [type, body] = result === undefined ? ['', []] : ['s', [result]];
      this.#bus.connection.send(dbus.Message.newMethodReturn(message, type, body));
    } catch (error) {
      this.#fail(message, 'org.xnbd1.Error.Failed', (error as Error).message);
    }
  }

  #fail(message: Message, errorName: string, text: string): void {
    this.#bus.connection.send(
      new dbus.Message({
        type: dbus.MessageType.ERROR,
        destination: message.sender,
        // The types say string; on the wire, and in the library, it is the number of the call.
        replySerial: message.serial as unknown as string,
        errorName,
        signature: 's',
        body: [text],
      }),
    );
  }
}

async function requestName(bus: Bus): Promise<void> {
  let answer: number;
  try {
    answer = await bus.connection.requestName(busName, dbus.NameFlag.DO_NOT_QUEUE);
  } catch (error) {
    if (errorName(error) === 'org.freedesktop.DBus.Error.AccessDenied') {
      throw new Error(
        `the bus does not let user ${process.getuid?.()} own ${busName}: install etc/org.xnbd1.conf in /etc/dbus-1/system.d and run as root`,
      );
    }
    throw error;
  }
  if (answer !== dbus.RequestNameReply.PRIMARY_OWNER && answer !== dbus.RequestNameReply.ALREADY_OWNER) {
    throw new Error(`${busName} is owned by another process on this bus: stop the other xnbdd first`);
  }
}
