/** Rates as people write them: bits a second, with k, M or G for thousands, as lines are sold. */
import type { Notation } from './notation.ts';

const UNITS: Readonly<Record<string, number>> = { k: 1e3, M: 1e6, G: 1e9 };
/** bit/s; no line is faster. */
const MOST = 1e12;

/** bit/s, whole; 0: nothing. A number without its unit could be meant in any, so only 0 has none. */
export const rate: Notation<number> = {
  parse: (text) => {
    if (text === '0') return 0;
    const [, digits, unit] = /^(\d{1,6}(?:\.\d{1,3})?)([kMG])$/.exec(text) ?? [];
    if (digits === undefined || unit === undefined) return undefined;
    const bits = Math.round(Number(digits) * UNITS[unit]!);
    return bits <= MOST ? bits : undefined;
  },
  format: (bits) => {
    if (bits === 0) return '0';
    // The largest unit of which three decimals say it exactly.
    const [unit, size] = Object.entries(UNITS).findLast(
      ([, each]) => bits >= each && bits % (each / 1000) === 0,
    ) ?? ['k', 1e3];
    return `${bits / size}${unit}`;
  },
  allowed: 'a rate in bit/s with its unit k, M or G, such as 200M, or 0 for nothing',
};
