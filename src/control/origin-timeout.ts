/**
 * How long a client's request may wait for an origin, as it is written: by people, in files, and on the
 * control socket.
 */
import type { OriginTimeout } from './protocol.ts';

const MOST_SECONDS = 86_400;
const ALLOWED = `allowed is a number of seconds from 1 to ${MOST_SECONDS}, or none`;

/** @returns the timeout in a word of a command line. @throws Error of one line */
export function parseOriginTimeout(text: string): OriginTimeout {
  return readOriginTimeout(/^\d{1,5}$/.test(text) ? Number(text) : text);
}

/** @returns the timeout in a value from elsewhere. @throws Error of one line */
export function readOriginTimeout(value: unknown): OriginTimeout {
  if (value === 'none' || value === 'default') return value;
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= MOST_SECONDS)
    return value;
  throw new Error(`origin-timeout: ${ALLOWED}`);
}
