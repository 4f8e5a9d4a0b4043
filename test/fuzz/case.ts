/**
 * One case: the bytes that a peer sends, and to whom. Kept in corpus/ as text: the side, then one line of hex
 * for each piece.
 */
import { configureLog } from '../../src/log/log.ts';
import { Random } from '../lab/model/random.ts';
import { runClient } from './client.ts';
import { cut, mutate } from './mutate.ts';
import { seeds } from './seeds.ts';
import { runServer } from './server.ts';

export interface Case {
  side: 'server' | 'client';
  pieces: Buffer[];
}

const all = seeds();

/** The case of this number: the same for all time, as long as seeds and mutations are. */
export function makeCase(seed: number): Case {
  const random = new Random(seed);
  const { side, messages } = random.pick(all);
  return { side, pieces: cut(mutate(messages, random), random) };
}

export function formatCase({ side, pieces }: Case): string {
  return [side, ...pieces.map((piece) => piece.toString('hex')), ''].join('\n');
}

/** @throws Error when the first line names no side. */
export function parseCase(text: string): Case {
  const [side, ...lines] = text.trimEnd().split('\n');
  if (side !== 'server' && side !== 'client')
    throw new Error(`a case is for server or client, not '${side}'`);
  return { side, pieces: lines.map((line) => Buffer.from(line, 'hex')) };
}

/** Runs it. @throws Error on whatever should not happen: a fault, an error of no name, an answer too much. */
export async function runCase({ side, pieces }: Case): Promise<void> {
  const faults: string[] = [];
  // What a session does not expect it logs so.
  configureLog({
    sink: (level, message) => {
      if (level === 'error' && message.includes('connection dropped')) faults.push(message);
    },
  });
  if (side === 'server') await runServer(pieces);
  else for (const allowOldstyle of [false, true]) runClient(pieces, allowOldstyle);
  if (faults.length > 0) throw new Error(faults.join('\n'));
}
