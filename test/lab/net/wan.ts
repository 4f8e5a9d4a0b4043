/** Starts the WAN emulator (wan-relay.ts) as a process of its own, and steers it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { freePort } from './free-port.ts';

export interface WanOptions {
  /** `HOST:PORT` or the path of a unix socket. */
  to: string;
  /** `HOST:PORT` or a path; default: any free port of 127.0.0.1. */
  listen?: string;
  /** Milliseconds there and back. Default 20. */
  rttMs?: number;
  /** Mbit/s of payload in each direction, 0: no limit. Default 100. */
  rateMbit?: number;
  /** KiB that may wait for the line in each direction. Default: rate x RTT, at least 256. */
  queueKib?: number;
}

export interface WanStats {
  /** Bytes that arrived at `to`. */
  upBytes: number;
  /** Bytes that arrived at the clients. */
  downBytes: number;
  connections: number;
}

export interface Wan {
  pid: number;
  /** Where it listens: `HOST:PORT` or a path. */
  address: string;
  /** The TCP port; 0 on a unix socket. */
  port: number;
  /** Resets every connection and refuses new ones. */
  cut(): Promise<void>;
  /** Lets nothing pass; connections stay. */
  stall(): Promise<void>;
  /** Ends a cut or a stall. */
  resume(): Promise<void>;
  stats(): Promise<WanStats>;
  stop(): Promise<void>;
}

/** @throws Error with what the emulator said, when it does not start. */
export async function startWan(options: WanOptions): Promise<Wan> {
  const args = [new URL('wan-relay.ts', import.meta.url).pathname, '--end-with-stdin', '--to', options.to];
  // One where it can listen again after a cut.
  args.push('--listen', options.listen ?? `127.0.0.1:${await freePort()}`);
  if (options.rttMs !== undefined) args.push('--rtt-ms', String(options.rttMs));
  if (options.rateMbit !== undefined) args.push('--rate-mbit', String(options.rateMbit));
  if (options.queueKib !== undefined) args.push('--queue-kib', String(options.queueKib));
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const gone = once(child, 'exit');
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();

  const line = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done === true) throw new Error(`the WAN emulator for ${options.to} ended`);
    return value;
  };
  // One command at a time: answers carry no name.
  let previous: Promise<unknown> = Promise.resolve();
  const command = (name: string): Promise<unknown> => {
    const answer = previous.then(async () => {
      child.stdin.write(`${name}\n`);
      return JSON.parse(await line()) as unknown;
    });
    previous = answer.catch(() => undefined);
    return answer;
  };

  const address = (await line()).replace(/^ready /, '');
  return {
    pid: child.pid!,
    address,
    port: address.includes('/') ? 0 : Number(address.slice(address.lastIndexOf(':') + 1)),
    cut: () => command('cut') as Promise<void>,
    stall: () => command('stall') as Promise<void>,
    resume: () => command('resume') as Promise<void>,
    stats: () => command('stats') as Promise<WanStats>,
    async stop() {
      child.kill();
      await gone;
    },
  };
}
