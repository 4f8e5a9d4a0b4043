/**
 * A connection to a D-Bus daemon, and calls on it that end: each has a deadline, and none outlives the
 * connection.
 *
 * dbus-next says nothing when the bus goes away (its calls then wait for ever), so the socket itself is
 * watched. Its proxies are not used: they introspect the peer first, and a peer that hangs would hang us.
 */
import type { Socket } from 'node:net';
import { Message, type MessageBus, sessionBus } from 'dbus-next';

export interface BusCall {
  destination: string;
  path: string;
  interface: string;
  member: string;
  signature?: string;
  body?: unknown[];
  /** Milliseconds; 25,000 (D-Bus's custom) by default. */
  timeout?: number;
}

export interface Bus {
  readonly connection: MessageBus;
  /** Aborted once the connection is gone, with the reason. */
  readonly closed: AbortSignal;
  /** The body of the reply.
   * @throws DBusError as the peer sent it; Error when there is no reply in time or the bus is gone. */
  call(options: BusCall): Promise<unknown[]>;
  /** Asks the bus for matching signals, which then come as 'message' on the connection. */
  addMatch(rule: string): Promise<void>;
  /** Ends the connection; `onClosed` is not called. */
  close(): void;
}

const systemAddress = 'unix:path=/run/dbus/system_bus_socket';

/** dbus-next keeps its socket to itself. */
function streamOf(connection: MessageBus): Socket {
  return (connection as unknown as { _connection: { stream: Socket } })._connection.stream;
}

/**
 * Connects. `address` is 'system' or a D-Bus address; `onClosed` is called once if the bus goes away later.
 * @throws Error naming the address when there is no bus.
 */
export async function openBus(address: string, onClosed: (reason: string) => void): Promise<Bus> {
  const busAddress = address === 'system' ? (process.env.DBUS_SYSTEM_BUS_ADDRESS ?? systemAddress) : address;
  const connection = sessionBus({ busAddress });
  const stream = streamOf(connection);
  // Signals and replies go nowhere once the bus is gone; dbus-next would throw, at the code that had news.
  const send = connection.send.bind(connection);
  connection.send = (message) => {
    if (stream.writable) send(message);
  };
  const closed = new AbortController();
  let open = false;
  const end = (reason: string): void => {
    if (closed.signal.aborted) return;
    closed.abort(new Error(`D-Bus at ${busAddress}: ${reason}`));
    stream.destroy();
    if (open) onClosed(reason);
  };
  connection.on('error', (error: Error) => end(error.message));
  stream.on('close', () => end('the bus closed the connection'));

  const call = (options: BusCall): Promise<unknown[]> => {
    const { timeout = 25_000, ...fields } = options;
    return withDeadline(timeout, closed.signal, `${fields.interface}.${fields.member}`, async () => {
      const reply = await connection.call(new Message(fields));
      return (reply?.body ?? []) as unknown[];
    });
  };
  const bus: Bus = {
    connection,
    closed: closed.signal,
    call,
    addMatch: async (rule) => {
      await call({ ...theBus, member: 'AddMatch', signature: 's', body: [rule] });
    },
    close: () => {
      open = false;
      end('closed');
    },
  };
  // The first reply shows that the handshake is through.
  await bus.call({ ...theBus, member: 'GetId', timeout: 10_000 });
  open = true;
  return bus;
}

/** Where the methods of the bus itself are. */
export const theBus = {
  destination: 'org.freedesktop.DBus',
  path: '/org/freedesktop/DBus',
  interface: 'org.freedesktop.DBus',
} as const;

function withDeadline<T>(
  milliseconds: number,
  closed: AbortSignal,
  what: string,
  start: () => Promise<T>,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const timer = setTimeout(() => {
      settle(() => reject(new Error(`${what}: no reply in ${milliseconds / 1000} s`)));
    }, milliseconds);
    const onClosed = (): void => settle(() => reject(closed.reason as Error));
    const settle = (then: () => void): void => {
      clearTimeout(timer);
      closed.removeEventListener('abort', onClosed);
      then();
    };
    if (closed.aborted) {
      onClosed();
      return;
    }
    closed.addEventListener('abort', onClosed);
    start().then(
      (value) => settle(() => resolve(value)),
      (error: unknown) => settle(() => reject(error instanceof Error ? error : new Error(String(error)))),
    );
  });
}

/** The D-Bus name of an error that a peer sent (org.freedesktop.DBus.Error...), or undefined. */
export function errorName(error: unknown): string | undefined {
  if (!(error instanceof Error) || error.name !== 'DBusError' || !('type' in error)) return undefined;
  return String(error.type);
}
