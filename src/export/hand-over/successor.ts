/**
 * The process that takes the place of this one, where no service manager starts it: the same program with the
 * same arguments, as it is on disk now. It is started before anything is stopped, loads itself, says which
 * versions it takes, and waits on a socket of its own for what is handed over. It is in a session of its own,
 * so that nothing ends it together with this process.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { descriptorOf } from '../../system/descriptors/descriptor.ts';
import { MOST_DESCRIPTORS, sendDescriptors } from '../../system/descriptors/messages.ts';
import { HAND_OVER_VERSION } from './state.ts';

/** The new process's end of the socket; XNBD_TAKE_OVER names it there. */
const CHANNEL = 3;
/** Loading takes some 100 ms, and more where the machine is busy. */
const READY_LIMIT_MS = 20_000;
/** The byte of a message of descriptors, and of the last. */
const MORE = 0;
export const LAST = 1;

/** What a new process says of itself, one line of JSON. */
export interface Hello {
  release: string;
  /** Versions of hand-overs that it takes. */
  takes: number[];
}

export interface Successor {
  readonly pid: number;
  /** It is there, and waits. */
  readonly waits: boolean;
  /** Sends it descriptors, and closes the socket: from then on all is its. @throws Error, one line */
  give(descriptors: readonly number[]): void;
  /** It ends, because nothing comes. */
  dismiss(): void;
}

/** @throws Error, one line: it does not start, or does not take what this release hands over. */
export async function startSuccessor(): Promise<Successor> {
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    detached: true,
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
    env: { ...process.env, XNBD_TAKE_OVER: String(CHANNEL) },
  });
  const end: { why: string | null } = { why: null };
  child.once('exit', (code, signal) => {
    end.why = `the new process ended with ${signal ?? `exit code ${code}`} before it took over: the log has its last words`;
  });
  child.once('error', (error) => {
    end.why = `no new process: ${error.message}`;
  });
  child.unref();
  const channel = child.stdio[CHANNEL] as Socket;
  channel.on('error', () => undefined);
  try {
    const line = await firstLine(channel);
    // Its end may be told after the end of its socket.
    if (line === undefined && end.why === null)
      await Promise.race([once(child, 'exit'), once(child, 'error')]);
    if (line === undefined) throw new Error(end.why ?? 'the new process does not answer');
    const { release, takes } = JSON.parse(line) as Hello;
    if (!takes.includes(HAND_OVER_VERSION)) {
      throw new Error(
        `the new process (release ${release}) takes over in version ${takes.join(', ')}, and this one hands over in ${HAND_OVER_VERSION}: end its guest to change to that release`,
      );
    }
  } catch (error) {
    channel.destroy();
    if (end.why === null) child.kill('SIGKILL');
    throw error;
  }
  return {
    pid: child.pid!,
    get waits() {
      return end.why === null && !channel.destroyed;
    },
    give: (descriptors) => {
      const { fd } = descriptorOf(channel);
      for (let at = 0; at < descriptors.length; at += MOST_DESCRIPTORS) {
        const part = descriptors.slice(at, at + MOST_DESCRIPTORS);
        const last = at + part.length === descriptors.length;
        sendDescriptors(fd, Buffer.from([last ? LAST : MORE]), part);
      }
      closeSync(fd);
    },
    dismiss: () => channel.destroy(),
  };
}

/** @returns undefined when the other end closes before, or says nothing in time */
function firstLine(channel: Socket): Promise<string | undefined> {
  return new Promise((resolve) => {
    let said = '';
    const timer = setTimeout(() => resolve(undefined), READY_LIMIT_MS);
    channel.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      const end = said.indexOf('\n');
      if (end === -1) return;
      clearTimeout(timer);
      resolve(said.slice(0, end));
    });
    channel.once('close', () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
}
