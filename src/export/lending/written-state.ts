/** What the record says of a lease: changed durably, or it is an error of the disk's. */
import { Recurring } from '../../log/recurring.ts';
import { Errno } from '../../nbd/constants.ts';
import type { ExportRecord } from '../../store/records/record.ts';
import type { RecordChange } from '../../store/records/record-keeper.ts';

const troubles = new Recurring('error');

export class WrittenState {
  readonly #persist: (change: RecordChange) => Promise<void>;
  readonly #baseState: () => ExportRecord['state'];

  /** @param baseState the record's state when the disk is not fenced */
  constructor(persist: (change: RecordChange) => Promise<void>, baseState: () => ExportRecord['state']) {
    this.#persist = persist;
    this.#baseState = baseState;
  }

  /** @returns errno, 0: the change is durable */
  async put(change: RecordChange): Promise<number> {
    try {
      await this.#persist(change);
      return 0;
    } catch (error) {
      troubles.met(`its record cannot be written: ${(error as Error).message}`);
      return Errno.EIO;
    }
  }

  /** A disk may have become complete while the change waited for its turn. */
  readonly unfenced = ({ complete }: Readonly<ExportRecord>): Partial<ExportRecord> => ({
    state: complete ? 'serving' : this.#baseState(),
    lease: null,
    leaseIdentity: null,
    movedTo: null,
  });
}
