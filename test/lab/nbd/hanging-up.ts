/**
 * A server that crashes on sectors that it cannot read: one nbdkit for each connection, so that what ends is
 * the connection and not the service. The connection then ends in order, as the kernel closes it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { waitFor } from '../wait-for.ts';
import type { OriginServer } from './origin-servers.ts';

export interface HangingUp extends OriginServer {
  /** Every read ends its connection, and nothing listens for so many ms afterwards; null: no more. */
  endEach(awayMs: number | null): void;
  /** Resolves when so many connections have been ended so. */
  ended(count: number): Promise<void>;
}

/** @param bad bytes that cannot be read while the file `broken` exists */
export async function startHangingUp(
  directory: string,
  image: string,
  size: number,
  broken: string,
  bad: readonly number[],
): Promise<HangingUp> {
  const path = join(directory, 'hangs-up.sock');
  const children = new Set<ChildProcess>();
  let away: number | null = null;
  let ended = 0;
  const hits = bad.map((byte) => `{ [ $4 -le ${byte} ] && [ $(($4 + $3)) -gt ${byte} ]; }`).join(' || ');
  const serve = (socket: Socket): void => {
    const ends = away !== null;
    const child = spawn(
      'nbdkit',
      [
        ...['-s', 'eval', 'thread_model=echo parallel', `get_size=echo ${size}`],
        `pread=if ${ends ? 'true' : `[ -e ${broken} ] && { ${hits}; }`}; then kill -9 $PPID; exit 1; fi
          dd if=${image} iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64k 2>/dev/null`,
      ],
      { stdio: [socket, socket, 'ignore'] },
    );
    socket.destroy();
    children.add(child);
    child.once('exit', (_, signal) => {
      children.delete(child);
      if (signal !== 'SIGKILL' || !ends) return;
      ended += 1;
      if (away === null) return;
      server.close();
      setTimeout(() => server.listen(path), away);
    });
  };
  const server = createServer({ pauseOnConnect: true }, serve).listen(path);
  await once(server, 'listening');
  return {
    uri: `nbd+unix:///?socket=${path}`,
    hasClients: () => children.size > 0,
    endEach(awayMs) {
      away = awayMs;
      for (const child of children) child.kill('SIGTERM');
    },
    async ended(count) {
      await waitFor(`${count} connections to be ended`, () => ended >= count, 60_000);
    },
    stop: async () => {
      away = null;
      if (server.listening) server.close();
      await Promise.all(
        [...children].map(async (child) => {
          child.kill('SIGKILL');
          await once(child, 'exit');
        }),
      );
    },
  };
}
