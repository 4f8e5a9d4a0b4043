/**
 * What happens on the two libvirt hosts, line by line as it happens: hooks that libvirt calls, states of the
 * disks, D-Bus signals. Each is heard where it is: a log that the hook script writes, the control sockets,
 * the bus.
 */
import { open } from 'node:fs/promises';
import { type Message, sessionBus } from 'dbus-next';
import { connectControl } from '../../src/control/client.ts';
import type { ExportStatus } from '../../src/control/status.ts';
import type { Lab } from '../../test/lab/libvirt/lab.ts';
import { log as hookLog } from './xnbd-host.ts';

type Host = Lab['a'];

const LOOK_MS = 50;
const BUS_NAME = 'org.xnbd1';
const MANAGER = 'org.xnbd1.Manager';

export interface Signal {
  host: string;
  member: string;
  body: unknown[];
}

export interface Timeline {
  /** Something that the demo itself does. */
  say(text: string): void;
  /** The last status of each export, `HOST:NAME`. */
  readonly statuses: ReadonlyMap<string, ExportStatus>;
  readonly signals: readonly Signal[];
  /** Told each status. */
  onStatus: (host: string, status: ExportStatus) => void;
  close(): Promise<void>;
}

/** @param print takes each line: seconds since the first, host, what kind of thing, what happened. */
export function startTimeline(
  hosts: readonly Host[],
  exportNames: readonly string[],
  print: (seconds: number, host: string, kind: string, text: string) => void,
): Timeline {
  const begin = performance.now();
  const ended = new AbortController();
  const statuses = new Map<string, ExportStatus>();
  const signals: Signal[] = [];
  const tell = (host: string, kind: string, text: string): void =>
    print((performance.now() - begin) / 1000, host, kind, text);

  const timeline: Timeline = {
    say: (text) => tell('', '', text),
    statuses,
    signals,
    onStatus: () => undefined,
    async close() {
      ended.abort();
      await Promise.all(watching);
    },
  };
  const watching = hosts.flatMap((host) => [
    watchHooks(host, ended.signal, (text) => tell(host.name, 'hook', text)),
    watchSignals(host, ended.signal, (signal) => {
      signals.push(signal);
      tell(host.name, 'signal', describe(signal));
    }),
    ...exportNames.map((name) =>
      watchExport(host, name, ended.signal, (status) => {
        const key = `${host.name}:${name}`;
        const before = statuses.get(key)?.state;
        statuses.set(key, status);
        if (status.state !== before) tell(host.name, 'state', `${name} is ${status.state}`);
        timeline.onStatus(host.name, status);
      }),
    ),
  ]);
  return timeline;
}

function describe({ member, body }: Signal): string {
  const [, domain, , last] = body as [string, string, string, unknown];
  if (member === 'RelocationFailed') return `${member} ${domain}: ${String(last)}`;
  return `${member} ${domain}`;
}

async function watchHooks(host: Host, signal: AbortSignal, tell: (text: string) => void): Promise<void> {
  const file = await open(host.outside(hookLog), 'a+');
  const buffer = Buffer.alloc(64 * 1024);
  let pending = '';
  while (!signal.aborted) {
    const { bytesRead } = await file.read(buffer, 0, buffer.length);
    const lines = (pending + buffer.toString('utf8', 0, bytesRead)).split('\n');
    pending = lines.pop() ?? '';
    for (const line of lines) tell(line);
    await pause(signal);
  }
  await file.close();
}

/** Waits for the export's control socket, again whenever it ends. */
async function watchExport(
  host: Host,
  name: string,
  signal: AbortSignal,
  tell: (status: ExportStatus) => void,
): Promise<void> {
  const path = host.outside(`/run/xnbd/${name}.ctl`);
  while (!signal.aborted) {
    try {
      const client = await connectControl(path, tell);
      signal.addEventListener('abort', () => client.close());
      await client.watch();
      await client.closed;
    } catch {
      // It is not there (yet), or it ended just now.
    }
    await pause(signal);
  }
}

async function watchSignals(host: Host, signal: AbortSignal, tell: (signal: Signal) => void): Promise<void> {
  const bus = sessionBus({ busAddress: host.busAddress });
  bus.on('error', () => undefined);
  bus.on('message', ({ interface: from, member, body }: Message) => {
    if (from === MANAGER) tell({ host: host.name, member, body: body as unknown[] });
  });
  const dbus = (await bus.getProxyObject('org.freedesktop.DBus', '/org/freedesktop/DBus')).getInterface(
    'org.freedesktop.DBus',
  );
  await (dbus as unknown as { AddMatch(rule: string): Promise<void> }).AddMatch(
    `type='signal',sender='${BUS_NAME}',interface='${MANAGER}'`,
  );
  await new Promise((resolve) => signal.addEventListener('abort', resolve));
  bus.disconnect();
}

function pause(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, LOOK_MS);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
