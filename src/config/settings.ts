/**
 * The settings of relocations, `[relocation]` of xnbd.conf: the only place that lists them. Those of a disk
 * are handed to its export (`--set KEY=VALUE`), shown in its status, and, where it says so here, changed
 * while it runs (`xnbdctl set NAME KEY VALUE`), which the record of the disk remembers.
 *
 * A new one is a row here and the place that uses it: `config.relocation[NAME]` of the host, or `value(NAME)`
 * of the disk's settings (src/store/records/disk-settings.ts).
 */
import { type Notation, offOrOn, oneOf, orNone, wholeNumber } from './notation.ts';
import { rate } from './rate.ts';
import { rateSchedule } from './rate-schedule.ts';

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
  rate: hostSetting({
    ...orNone(rate),
    default: 'none',
    help: 'the most that all disks which arrive here take of the path, together; requests of guests count, and are not held back; `xnbdctl limit` changes it',
  }),
  'rate-schedule': hostSetting({
    ...orNone(rateSchedule),
    default: 'none',
    help: 'rates that hold in place of `rate` at their times, by the local clock; the first that fits',
  }),
  'max-arriving': hostSetting({
    ...orNone(wholeNumber('disks', 1, 10_000)),
    default: 'none',
    help: 'how many disks are copied in the background at a time; further ones queue, while their guests are served as ever',
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
    ...orNone(rate),
    default: 'none',
    changeable: true,
    help: 'the most that the disk takes of the path; requests of its guest count, and are not held back',
  }),
  weight: diskSetting({
    ...wholeNumber(null, 1, 10_000),
    default: '100',
    changeable: true,
    help: "the disk's part of a rate that several share: one of 200 gets twice what one of 100 gets",
  }),
  follow: diskSetting({
    ...offOrOn,
    default: 'on',
    changeable: true,
    help: "what lies around the guest's reads is copied before the rest",
  }),
  paused: diskSetting({
    ...offOrOn,
    default: 'off',
    changeable: true,
    help: 'nothing is copied in the background; what the guest asks for comes as ever',
  }),
  verify: diskSetting({
    ...offOrOn,
    default: 'off',
    changeable: false,
    help: 'compare each disk that has arrived with its origin before the origin is let go',
  }),
};

export const relocationSettings = { ...hostSettings, ...diskSettings };

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
