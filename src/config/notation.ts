/** How the values of settings are written: one notation a kind, put together from simpler ones. */

export interface Notation<Value> {
  /** @returns undefined for what is not allowed */
  parse(text: string): Value | undefined;
  format(value: Value): string;
  /** What is, as the end of a sentence. */
  readonly allowed: string;
}

/** @param unit what is counted, where that has a name. @param least @param most inclusive, below 10^15 */
export const wholeNumber = (unit: string | null, least: number, most: number): Notation<number> => ({
  parse: (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    return value >= least && value <= most ? value : undefined;
  },
  format: String,
  allowed: `a number${unit === null ? '' : ` of ${unit}`} from ${least} to ${most}`,
});

export const orNone = <Value>(notation: Notation<Value>): Notation<Value | null> => ({
  parse: (text) => (text === 'none' ? null : notation.parse(text)),
  format: (value) => (value === null ? 'none' : notation.format(value)),
  allowed: `${notation.allowed}, or none`,
});

export const oneOf = <const Word extends string>(...words: Word[]): Notation<Word> => ({
  parse: (text) => words.find((word) => word === text),
  format: (word) => word,
  allowed: words.join(' or '),
});

export const offOrOn: Notation<boolean> = {
  parse: (text) => ({ off: false, on: true })[text],
  format: (value) => (value ? 'on' : 'off'),
  allowed: 'off or on',
};
