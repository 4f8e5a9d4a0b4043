/**
 * The settings of one disk (src/config/settings.ts): those that its export was started with, and before them
 * those that an administrator chose for this disk, which its record remembers.
 */
import {
  type DiskSettingName,
  type DiskSettingValues,
  diskRows,
  diskSettingNamed,
  parseDiskSetting,
} from '../../config/settings.ts';
import type { RecordKeeper } from './record-keeper.ts';

/** Undoes a choice. */
const DEFAULT = 'default';

export class DiskSettings {
  readonly #keeper: RecordKeeper;
  readonly #given: Partial<DiskSettingValues>;
  readonly #followers = new Map<DiskSettingName, ((value: never) => void)[]>();
  #values: DiskSettingValues;

  /** @param given what the export was started with */
  constructor(keeper: RecordKeeper, given: Partial<DiskSettingValues> = {}) {
    this.#keeper = keeper;
    this.#given = given;
    this.#values = this.#inForce();
  }

  value<Name extends DiskSettingName>(name: Name): DiskSettingValues[Name] {
    return this.#values[name];
  }

  /** All of them, as they are written. */
  get texts(): Record<string, string> {
    return Object.fromEntries(diskRows.map(([name, setting]) => [name, setting.format(this.#values[name])]));
  }

  /** @param follow told after each change */
  follow<Name extends DiskSettingName>(name: Name, follow: (value: DiskSettingValues[Name]) => void): void {
    this.#followers.set(name, [...(this.#followers.get(name) ?? []), follow]);
  }

  /**
   * What an administrator chooses for this disk: remembered first, then in force.
   * @param text the value as it is written, or `default`: as the export was started
   * @returns what is in force now, as it is written
   * @throws Error of one line, also where a setting cannot be changed while the export runs
   */
  async choose(key: string, text: string): Promise<string> {
    const [name, setting] = diskSettingNamed(key);
    if (!setting.changeable)
      throw new Error(`${name} cannot be changed while the export runs: set it in [relocation] of xnbd.conf`);
    const chosen = text === DEFAULT ? undefined : setting.format(parseDiskSetting(key, text));
    await this.#keeper.update(({ settings }) => {
      const others = Object.entries(settings).filter(([other]) => other !== name);
      return { settings: { ...Object.fromEntries(others), ...(chosen !== undefined && { [name]: chosen }) } };
    });
    this.#values = this.#inForce();
    for (const follow of this.#followers.get(name) ?? []) follow(this.#values[name] as never);
    return setting.format(this.#values[name]);
  }

  #inForce(): DiskSettingValues {
    const { settings } = this.#keeper.record;
    const values = diskRows.map(([name, setting]) => {
      // What another release wrote may mean nothing here.
      const chosen = settings[name] === undefined ? undefined : setting.parse(settings[name]);
      const given = this.#given[name] === undefined ? setting.parse(setting.default) : this.#given[name];
      return [name, chosen === undefined ? given : chosen] as const;
    });
    return Object.fromEntries(values) as unknown as DiskSettingValues;
  }
}
