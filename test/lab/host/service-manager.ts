/**
 * systemd as a service with a store of descriptors meets it (sd_notify(3), sd_listen_fds(3)): FDSTORE=1 is kept,
 * FDSTOREREMOVE=1 dropped, and each start is given what is kept. A stop drops it all.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { receiveDescriptors } from '../../../src/system/descriptors/messages.ts';
import { waitFor } from '../wait-for.ts';

const libc = koffi.load(null);
const socketFn = libc.func('int socket(int domain, int type, int protocol)') as (...args: number[]) => number;
const bindFn = libc.func('int bind(int fd, void *address, uint32_t length)') as (
  fd: number,
  address: Buffer,
  length: number,
) => number;
const AF_UNIX = 1;
const SOCK_DGRAM_NONBLOCK_CLOEXEC = 2 | 0o4000 | 0o2000000;

export class ServiceManager {
  /** Descriptors that are kept, with their names. */
  store: { fd: number; name: string }[] = [];
  child: ChildProcess | undefined;
  /** Of this name nothing is dropped, whatever the service says. */
  neverDrops: string | undefined;
  readonly #directory: string;
  readonly #socket: number;
  readonly #timer: NodeJS.Timeout;

  constructor(directory: string) {
    this.#directory = directory;
    this.#socket = socketFn(AF_UNIX, SOCK_DGRAM_NONBLOCK_CLOEXEC, 0);
    const path = Buffer.from(`${join(directory, 'notify')}\0`);
    const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), path]);
    if (bindFn(this.#socket, address, address.length) !== 0) throw new Error('no notify socket');
    this.#timer = setInterval(() => this.#receive(), 5);
  }

  /** Starts the program, with what is kept, and waits until it says that it is ready. */
  async start(argv: readonly string[]): Promise<void> {
    const before = this.said();
    const log = openSync(join(this.#directory, 'service.log'), 'a');
    const child = spawn('sh', ['-c', 'export LISTEN_PID=$$; exec "$@"', 'sh', ...argv], {
      stdio: ['ignore', log, log, ...this.store.map(({ fd }) => fd)],
      env: {
        ...process.env,
        NOTIFY_SOCKET: join(this.#directory, 'notify'),
        FDSTORE: '1024',
        LISTEN_FDS: String(this.store.length),
        LISTEN_FDNAMES: this.store.map(({ name }) => name).join(':'),
      },
    });
    closeSync(log);
    this.child = child;
    const isUp = () => this.said().slice(before.length).includes('ready ') || child.exitCode !== null;
    await waitFor('the service', isUp, 20_000);
  }

  /** All that the service has said. */
  said(): string {
    return readFileSync(join(this.#directory, 'service.log'), { encoding: 'utf8', flag: 'a+' });
  }

  /** Sends a signal, and waits for the end of the service. @returns its exit code; null after a signal */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    const { child } = this;
    if (child === undefined) return null;
    if (child.exitCode === null && child.signalCode === null) {
      child.kill(signal);
      await once(child, 'exit');
    }
    this.#receive();
    return child.exitCode;
  }

  /** What is kept is dropped. */
  drop(): void {
    for (const { fd } of this.store.splice(0)) closeSync(fd);
  }

  close(): void {
    clearInterval(this.#timer);
    this.drop();
    closeSync(this.#socket);
  }

  #receive(): void {
    for (;;) {
      let message: ReturnType<typeof receiveDescriptors>;
      try {
        message = receiveDescriptors(this.#socket, 4096);
      } catch {
        // Nothing is there.
        return;
      }
      if (message === undefined) return;
      const words = message.data.toString().split('\n');
      const name = words.find((word) => word.startsWith('FDNAME='))?.slice('FDNAME='.length) ?? 'stored';
      if (words.includes('FDSTORE=1')) this.store.push(...message.descriptors.map((fd) => ({ fd, name })));
      if (!words.includes('FDSTOREREMOVE=1') || name === this.neverDrops) continue;
      for (const each of this.store) if (each.name === name) closeSync(each.fd);
      this.store = this.store.filter((each) => each.name !== name);
    }
  }
}
