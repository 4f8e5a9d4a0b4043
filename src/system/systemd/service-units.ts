/**
 * Units of systemd, started and ended over its D-Bus (org.freedesktop.systemd1(5)).
 *
 * A call only queues a job; what became of it comes as the signal JobRemoved, perhaps before the reply of the
 * call has been looked at. So the last results are kept.
 */
import type { Message } from 'dbus-next';
import { type Bus, type BusCall, errorName, openBus } from '../bus.ts';

/**
 * What a job ended with, in systemd's words: `done`, or `failed`, `canceled`, `timeout`, `dependency`,
 * `skipped`.
 */
export type JobResult = string;

const destination = 'org.freedesktop.systemd1';
const manager = { destination, path: '/org/freedesktop/systemd1', interface: `${destination}.Manager` };
const properties = 'org.freedesktop.DBus.Properties';
/** Results of jobs that nobody has asked for yet. */
const mostResults = 256;

interface Connection {
  bus: Bus;
  results: Map<string, JobResult>;
  waiting: Map<string, (result: JobResult) => void>;
}

export class ServiceUnits {
  readonly #address: string;
  #connection: Promise<Connection> | undefined;

  /** @param address 'system', or a D-Bus address; connected to when it is needed first. */
  constructor(address = 'system') {
    this.#address = address;
  }

  /**
   * Starts a unit, also one that systemd has given up, and waits until it is up or is known not to come. A
   * unit that is being ended, or restarted, is waited for.
   * @throws Error when systemd refuses; the reason of `signal`, and the job goes on then.
   */
  async start(unit: string, signal?: AbortSignal): Promise<JobResult> {
    await this.#forgetStarts(unit);
    return await this.#job('StartUnit', unit, signal);
  }

  /**
   * Ends a unit and starts it again, with what it has left in its store, however often it has been started
   * lately, and waits until it is up.
   */
  async restart(unit: string): Promise<JobResult> {
    await this.#forgetStarts(unit);
    return await this.#job('RestartUnit', unit);
  }

  /** A start that systemd takes for one too many would fail the unit, and drop what its store holds. */
  async #forgetStarts(unit: string): Promise<void> {
    await this.#call('ResetFailedUnit', 's', [unit]).catch((error: unknown) => {
      if (errorName(error) !== `${destination}.NoSuchUnit`) throw error;
    });
  }

  /** Ends a unit, and waits until it is gone. */
  async stop(unit: string): Promise<JobResult> {
    return await this.#job('StopUnit', unit);
  }

  /** Sends a signal to every process of a unit. */
  async kill(unit: string, signal: number): Promise<void> {
    await this.#call('KillUnit', 'ssi', [unit, 'all', signal]);
  }

  /** Has systemd read unit files again. */
  async reload(): Promise<void> {
    await this.#call('Reload', '', []);
  }

  /** A property of a unit; `face` is Unit or Service. */
  async property(unit: string, face: 'Unit' | 'Service', name: string): Promise<unknown> {
    const [path] = await this.#call('LoadUnit', 's', [unit]);
    return await this.#property(String(path), `${destination}.${face}`, name);
  }

  /** The host is being shut down: what ends now ends because it was told to. */
  async hostGoesDown(): Promise<boolean> {
    return (await this.#property(manager.path, manager.interface, 'SystemState')) === 'stopping';
  }

  close(): void {
    void this.#connection?.then(
      ({ bus }) => bus.close(),
      () => undefined,
    );
  }

  async #property(path: string, face: string, name: string): Promise<unknown> {
    const { bus } = await this.#connect();
    const [value] = await bus.call({
      ...{ destination, path, interface: properties, member: 'Get' },
      ...{ signature: 'ss', body: [face, name] },
    });
    return (value as { value: unknown }).value;
  }

  async #call(member: string, signature: string, body: unknown[]): Promise<unknown[]> {
    const { bus } = await this.#connect();
    const call: BusCall = { ...manager, member, ...(signature !== '' && { signature, body }) };
    return await bus.call(call);
  }

  async #job(
    member: `${'Start' | 'Stop' | 'Restart'}Unit`,
    unit: string,
    signal?: AbortSignal,
  ): Promise<JobResult> {
    const { results, waiting, bus } = await this.#connect();
    const [path] = (await this.#call(member, 'ss', [unit, 'replace'])) as [string];
    const known = results.get(path);
    if (known !== undefined) return known;
    return await new Promise<JobResult>((resolve, reject) => {
      const settle = (then: () => void): void => {
        waiting.delete(path);
        signal?.removeEventListener('abort', abort);
        bus.closed.removeEventListener('abort', lost);
        then();
      };
      const abort = (): void => settle(() => reject(signal?.reason as Error));
      const lost = (): void => settle(() => reject(bus.closed.reason as Error));
      waiting.set(path, (result) => settle(() => resolve(result)));
      signal?.addEventListener('abort', abort);
      bus.closed.addEventListener('abort', lost);
      if (signal?.aborted === true) abort();
      if (bus.closed.aborted) lost();
    });
  }

  #connect(): Promise<Connection> {
    this.#connection ??= this.#open().catch((error: unknown) => {
      this.#connection = undefined;
      throw error;
    });
    return this.#connection;
  }

  async #open(): Promise<Connection> {
    const bus = await openBus(this.#address, () => {
      this.#connection = undefined;
    });
    const connection: Connection = { bus, results: new Map(), waiting: new Map() };
    bus.connection.on('message', (message: Message) => {
      if (message.member !== 'JobRemoved' || message.interface !== manager.interface) return;
      const [, path, , result] = message.body as [number, string, string, JobResult];
      remember(connection.results, path, result);
      connection.waiting.get(path)?.(result);
    });
    await bus.addMatch(
      `type='signal',sender='${destination}',interface='${manager.interface}',member='JobRemoved'`,
    );
    // Without it systemd sends no signals.
    await bus.call({ ...manager, member: 'Subscribe' });
    return connection;
  }
}

function remember(results: Map<string, JobResult>, path: string, result: JobResult): void {
  results.set(path, result);
  const [oldest] = results.keys();
  if (results.size > mostResults && oldest !== undefined) results.delete(oldest);
}
