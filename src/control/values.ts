/**
 * Kinds of values that a status is made of: how one is read from JSON that came from another process, what
 * stands where it is missing or of another type, and how D-Bus shows it. D-Bus knows no null: a string that
 * is not there is empty, a number -1.
 */

export interface Kind<Value> {
  /** What holds where a status does not have the property. */
  readonly empty: Value;
  /** @returns undefined for what is no such value */
  read(value: unknown): Value | undefined;
  /** Type on D-Bus, and the value as dbus-next takes it. */
  readonly signature: string;
  toBus(value: Value): unknown;
}

/** The value that a kind takes. */
export type ValueOf<Of> = Of extends Kind<infer Value> ? Value : never;

const isText = (value: unknown): value is string => typeof value === 'string';
const isCount = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;

export const text: Kind<string> = {
  empty: '',
  read: (value) => (isText(value) ? value : undefined),
  signature: 's',
  toBus: (value) => value,
};

/** One of some words; `empty` also stands for a word that is not known here. */
export function word<const Word extends string>(words: readonly Word[], empty: Word): Kind<Word> {
  return {
    empty,
    read: (value) => words.find((each) => each === value),
    signature: 's',
    toBus: (value) => value,
  };
}

/** A whole number from 0 to 2^53 - 1. */
export const count: Kind<number> = {
  empty: 0,
  read: (value) => (isCount(value) ? value : undefined),
  signature: 't',
  toBus: (value) => BigInt(value),
};

/** A whole number from 0 to 2^32 - 1. */
export const smallCount: Kind<number> = {
  empty: 0,
  read: (value) => (isCount(value) && value < 2 ** 32 ? value : undefined),
  signature: 'u',
  toBus: (value) => value,
};

/** Seconds, with their fraction. */
export const duration: Kind<number> = {
  empty: 0,
  read: (value) => (typeof value === 'number' && value >= 0 && value < Infinity ? value : undefined),
  signature: 'd',
  toBus: (value) => value,
};

/** A value that may be missing. @param bus what D-Bus shows then, and the type that has room for it */
export function orNull<Value>(
  kind: Kind<Value>,
  bus: { null: unknown; signature?: string },
): Kind<Value | null> {
  return {
    empty: null,
    read: (value) => (value === null ? null : kind.read(value)),
    signature: bus.signature ?? kind.signature,
    toBus: (value) => (value === null ? bus.null : kind.toBus(value)),
  };
}

export const textOrNull = orNull(text, { null: '' });
export const countOrNull = orNull(count, { null: -1n, signature: 'x' });

/** @param empty what is so unless the contrary is said */
export function truth(empty: boolean): Kind<boolean> {
  return {
    empty,
    read: (value) => (typeof value === 'boolean' ? value : undefined),
    signature: 'b',
    toBus: (value) => value,
  };
}

export const durationOrNull = orNull(duration, { null: -1 });

/** Texts by their names. */
export const texts: Kind<Record<string, string>> = {
  empty: {},
  read: (value) =>
    typeof value === 'object' && value !== null
      ? Object.fromEntries(
          Object.entries(value).filter((entry): entry is [string, string] => isText(entry[1])),
        )
      : undefined,
  signature: 'a{ss}',
  toBus: (value) => value,
};

/** Items that are not what they should be are left out. */
export function listOf<Item>(item: Kind<Item>): Kind<Item[]> {
  const items = (value: unknown[]): Item[] =>
    value.flatMap((each) => {
      const read = item.read(each);
      return read === undefined ? [] : [read];
    });
  return {
    empty: [],
    read: (value) => (Array.isArray(value) ? items(value) : undefined),
    signature: `a${item.signature}`,
    toBus: (value) => value.map((each) => item.toBus(each)),
  };
}

/** The values of an object with these fields. */
export type ObjectOf<Of> = { -readonly [Name in keyof Of]: ValueOf<Of[Name]> };

/**
 * An object: fields that it lacks, or that are of another type, are empty; fields that are not known here are
 * dropped.
 */
export function objectOf<const Of extends Record<keyof Of, Kind<unknown>>>(fields: Of): Kind<ObjectOf<Of>> {
  const entries = Object.entries(fields) as [keyof Of, Kind<unknown>][];
  const made = (value: (name: keyof Of, kind: Kind<unknown>) => unknown): ObjectOf<Of> =>
    Object.fromEntries(entries.map(([name, kind]) => [name, value(name, kind)])) as ObjectOf<Of>;
  return {
    empty: made((_name, kind) => kind.empty),
    read: (value) => {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
      const given = value as Partial<Record<keyof Of, unknown>>;
      return made((name, kind) => kind.read(given[name]) ?? kind.empty);
    },
    signature: `(${entries.map(([, kind]) => kind.signature).join('')})`,
    toBus: (value) => entries.map(([name, kind]) => kind.toBus(value[name])),
  };
}
