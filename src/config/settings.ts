/**
 * The settings of relocations, `[relocation]` of xnbd.conf: the only place that lists them. Those of a disk
 * are handed to its export (`--set KEY=VALUE`), shown in its status, and, where it says so here, changed
 * while it runs (`xnbdctl set NAME KEY VALUE`), which the record of the disk remembers.
 *
 * A new one is a row here and the place that uses it: `config.relocation[NAME]` of the host, or `value(NAME)`
 * of the disk's settings (src/store/records/disk-settings.ts).
 */

/** How values are written. */
interface Notation<Value> {
  /** @returns undefined for what is not allowed */
  parse(text: string): Value | undefined;
  format(value: Value): string;
  /** What is, as the end of a sentence. */
  readonly allowed: string;
}

export interface Setting<Value> extends Notation<Value> {
  /** As it is written. */
  readonly default: string;
  /** One sentence, for documents. */
  readonly help: string;
}

/** A setting of a disk. */
export interface DiskSetting<Value> extends Setting<Value> {
  /** While its export runs. */
  readonly changeable: boolean;
}

/** The values of a table of settings. */
type ValuesOf<Table> = {
  readonly [Name in keyof Table]: Table[Name] extends Setting<infer Value> ? Value : never;
};

const wholeNumber = (unit: string, least: number, most: number): Notation<number> => ({
  parse: (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    return value >= least && value <= most ? value : undefined;
  },
  format: String,
  allowed: `a number of ${unit} from ${least} to ${most}`,
});

const orNone = <Value>(notation: Notation<Value>): Notation<Value | null> => ({
  parse: (text) => (text === 'none' ? null : notation.parse(text)),
  format: (value) => (value === null ? 'none' : notation.format(value)),
  allowed: `${notation.allowed}, or none`,
});

const oneOf = <const Word extends string>(...words: Word[]): Notation<Word> => ({
  parse: (text) => words.find((word) => word === text),
  format: (word) => word,
  allowed: words.join(' or '),
});

const offOrOn: Notation<boolean> = {
  parse: (text) => ({ off: false, on: true })[text],
  format: (value) => (value ? 'on' : 'off'),
  allowed: 'off or on',
};

const seconds = wholeNumber('seconds', 1, 86_400);
const hostSetting = <Value>(row: Setting<Value>): Setting<Value> => row;
const diskSetting = <Value>(row: DiskSetting<Value>): DiskSetting<Value> => row;

const hostSettings = {
  'prepare-timeout': hostSetting({
    ...seconds,
    default: '60',
    help: 'how long a destination stays prepared when libvirt announced a domain and says nothing more',
  }),
  retired: hostSetting({
    ...oneOf('delete', 'keep'),
    default: 'keep',
    help: "what becomes of a disk's image file here once the disk is complete elsewhere",
  }),
};

const diskSettings = {
  'origin-timeout': diskSetting({
    ...orNone(seconds),
    default: 'none',
    changeable: true,
    help: 'how long a request may wait for an origin that is away before it gets EIO; none: for ever',
  }),
  'copy-rate': diskSetting({
    ...orNone(wholeNumber('Mbit/s', 1, 1_000_000)),
    default: 'none',
    changeable: true,
    help: 'the most that the background copy of a disk may take of the path; requests of its guest are not held back',
  }),
  verify: diskSetting({
    ...offOrOn,
    default: 'off',
    changeable: false,
    help: 'compare each disk that has arrived with its origin before the origin is let go',
  }),
};

const relocationSettings = { ...hostSettings, ...diskSettings };

export type RelocationSettings = ValuesOf<typeof relocationSettings>;
export type DiskSettingName = keyof typeof diskSettings;
export type DiskSettingValues = ValuesOf<typeof diskSettings>;

/** Every row, without the type of its own value. */
export const relocationRows = Object.entries(relocationSettings) as [string, Setting<unknown>][];
export const diskRows = Object.entries(diskSettings) as [DiskSettingName, DiskSetting<unknown>][];

/** @throws Error of one line that names the settings there are */
export function diskSettingNamed(key: string): [DiskSettingName, DiskSetting<unknown>] {
  const row = diskRows.find(([name]) => name === key);
  if (row !== undefined) return row;
  throw new Error(`no setting '${key.slice(0, 40)}': there are ${diskRows.map(([name]) => name).join(', ')}`);
}

/** @returns the value. @throws Error of one line that says what is allowed */
export function parseDiskSetting(key: string, text: string): unknown {
  const [name, setting] = diskSettingNamed(key);
  const value = setting.parse(text);
  if (value === undefined) throw new Error(`${name} = ${text.slice(0, 40)}: allowed is ${setting.allowed}`);
  return value;
}

/** The settings of disks as words of a command line (`--set KEY=VALUE`). */
export function settingArguments(values: DiskSettingValues): string[] {
  return diskRows.flatMap(([name, setting]) => ['--set', `${name}=${setting.format(values[name])}`]);
}

/** @param word KEY=VALUE. @returns what it sets. @throws Error of one line */
export function parseSettingArgument(word: string): Partial<DiskSettingValues> {
  const at = word.indexOf('=');
  if (at === -1) throw new Error(`${word.slice(0, 40)}: allowed is KEY=VALUE`);
  const key = word.slice(0, at);
  return { [key]: parseDiskSetting(key, word.slice(at + 1)) };
}
