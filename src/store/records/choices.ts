/**
 * What an administrator has chosen for all disks of a host, until that is undone: `limits.json` beside the
 * directory of the exports. Who changes it need not be the daemon, which looks at it several times a second;
 * so it holds from the first start of the daemon on, whatever was killed when.
 */
import { open, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as v from 'valibot';
import { type Choices, formatCap, parseCap } from '../../config/caps.ts';
import { lockExclusively } from '../../system/syscalls.ts';
import { makeDirectory, replaceFile } from '../directory.ts';

const RETRY_MS = 10;
const LOCK_LIMIT_MS = 5000;

const Rate = v.pipe(
  v.string(),
  v.check((text) => parseCap(text) !== undefined),
);

/** Keys of another release stay. */
const FileSchema = v.looseObject({
  version: v.literal(1),
  rate: v.optional(Rate),
  peers: v.optional(v.record(v.string(), Rate), {}),
  paused: v.optional(v.boolean(), false),
});

type File = v.InferOutput<typeof FileSchema>;

export function choicesPath({ exports }: { exports: string }): string {
  return join(dirname(exports), 'limits.json');
}

/** @throws Error of one line when there is a file that is none of this */
export async function readChoices(path: string): Promise<Choices> {
  const { rate, peers, paused } = await readChoicesFile(path);
  return {
    ...(rate !== undefined && { rate: parseCap(rate)! }),
    peers: new Map(Object.entries(peers).map(([name, text]) => [name, parseCap(text)!])),
    paused,
  };
}

/** A change; a rate of undefined undoes the choice. */
export type Choice =
  | { readonly of: 'host'; readonly rate: number | null | undefined }
  | { readonly of: 'peer'; readonly peer: string; readonly rate: number | null | undefined }
  | { readonly of: 'all'; readonly paused: boolean };

/**
 * Changes the file, durably, one process after the other. @throws Error of one line, when it is none of this
 * or cannot be written
 */
export async function choose(path: string, choice: Choice): Promise<void> {
  await makeDirectory(dirname(path));
  const lock = await open(`${path}.lock`, 'a', 0o600);
  try {
    for (let waited = 0; lockExclusively(lock.fd) !== 0; waited += RETRY_MS) {
      if (waited > LOCK_LIMIT_MS) throw new Error(`${path} is being changed by another process: try again`);
      await sleep(RETRY_MS);
    }
    await replaceFile(path, `${JSON.stringify(changed(await readChoicesFile(path), choice), null, 2)}\n`);
  } finally {
    await lock.close();
  }
}

function changed({ rate, peers, ...file }: File, choice: Choice): File {
  const chosen = choice.of === 'all' || choice.rate === undefined ? undefined : formatCap(choice.rate);
  switch (choice.of) {
    case 'host':
      return { ...file, peers, ...(chosen !== undefined && { rate: chosen }) };
    case 'peer': {
      const others = Object.entries(peers).filter(([name]) => name !== choice.peer);
      if (chosen !== undefined) others.push([choice.peer, chosen]);
      return { ...file, ...(rate !== undefined && { rate }), peers: Object.fromEntries(others) };
    }
    case 'all':
      return { ...file, ...(rate !== undefined && { rate }), peers, paused: choice.paused };
  }
}

async function readChoicesFile(path: string): Promise<File> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return { version: 1, peers: {}, paused: false };
    throw new Error(`${path} cannot be read: ${(error as Error).message}; run as root`);
  }
  try {
    return v.parse(FileSchema, JSON.parse(text));
  } catch (error) {
    throw new Error(
      `${path} does not tell limits (${(error as Error).message}): remove it, and set them again with xnbdctl limit`,
    );
  }
}
