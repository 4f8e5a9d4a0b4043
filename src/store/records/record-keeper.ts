/** The record of a running export: read by everyone, changed in one place, one change after the other. */
import { type ExportRecord, writeRecord } from './record.ts';

export type RecordChange =
  | Partial<ExportRecord>
  | ((record: Readonly<ExportRecord>) => Partial<ExportRecord>);

export class RecordKeeper {
  readonly #stateDir: string;
  #record: ExportRecord;
  #last: Promise<unknown> = Promise.resolve();

  /** @param record as it is on disk, or is to be with the first `update` */
  constructor(stateDir: string, record: ExportRecord) {
    this.#stateDir = stateDir;
    this.#record = record;
  }

  /** As it is on disk: the same object always, its fields change. */
  get record(): Readonly<ExportRecord> {
    return this.#record;
  }

  /**
   * Changes the record on disk, durably, then in memory.
   * @param change what depends on the record is worked out by a function, from the record as the changes
   * before this one left it
   * @throws when it could not be written; then it may or may not have changed on disk
   */
  readonly update = (change: RecordChange): Promise<void> => {
    const result = this.#last.then(async () => {
      const changes = typeof change === 'function' ? change(this.#record) : change;
      await writeRecord(this.#stateDir, { ...this.#record, ...changes });
      Object.assign(this.#record, changes);
    });
    this.#last = result.catch(() => undefined);
    return result;
  };
}
