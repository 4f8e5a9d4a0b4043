/** The two machines, the guest that moves between them, and what steps need of both. */
import { join } from 'node:path';
import type { Guest } from './guest/guest.ts';
import type { MachineImage } from './machine/image.ts';
import type { Machine } from './machine/machine.ts';

export interface Bed {
  readonly machines: readonly [a: Machine, b: Machine];
  readonly guest: Guest;
  /** What the machines boot from, a's and b's; a release that was never made takes three minutes. */
  images(): Promise<readonly [MachineImage, MachineImage]>;
  /** Where a run leaves what it made. */
  readonly dir: string;
}

/** Prints what a person may want to read beside the table. */
export function tell(text: string): void {
  process.stdout.write(`${text.trimEnd().replace(/^/gm, '   ')}\n`);
}

/** One after the other: two machines at once slow each other down, and what they print stays apart. */
export async function onBoth<T>({ machines }: Bed, what: (machine: Machine) => Promise<T>): Promise<[T, T]> {
  return [await what(machines[0]), await what(machines[1])];
}

/** The top of this repository. */
export const TOP = join(import.meta.dirname, '..');
