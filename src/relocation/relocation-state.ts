/**
 * Where the relocation of one disk stands.
 *
 *                 takeOver              fence, map, record           last block, admitted
 *     standby ---------------> takingOver --------------> relocating ---------------> completing
 *      ^   ^                       |                      ^  |    |  ^                  |    |
 *      |   +-------- failed -------+         +- failed ---+  |    |  +----- failed -----+    | record:
 *      |                                     |               |    |                          | complete
 *      |                     abandon         |               |    | our holder               |
 *      |   standby ----------------------> givingUp <--------+    | has every block          |
 *      |                                     |      abandon       v                          v
 *      +-------------- failed ---------------+                 movedOn ------------> retiringOrigin
 *                                                                                            | origin
 *     the lease is void: any with an origin --> void; it can be given up                     | told
 *     the export ends, or the move was given up: any --> stopped                             v
 *                                                                                      withoutOrigin
 *
 * A step that has waited finds its state gone when the lease became void or the export was stopped meanwhile:
 * then `become` says so, and the step changes nothing any more.
 */
import type { ExportRecord } from '../store/records/record.ts';

type AnyTime = 'void' | 'stopped';

/** What may follow upon each state: the compiler refuses anything else. */
interface Transitions {
  /** Reads pass through and nothing is kept. */
  standby: 'takingOver' | 'givingUp' | AnyTime;
  /** The origin is being fenced. */
  takingOver: 'standby' | 'relocating' | AnyTime;
  /** Blocks arrive, or all are here and something else is waited for: a guest, a comparison. */
  relocating: 'completing' | 'movedOn' | 'givingUp' | AnyTime;
  /** Every block is present: that is being put on disk. */
  completing: 'relocating' | 'retiringOrigin' | AnyTime;
  /** Our own holder has told us to retire: nothing is copied any more. */
  movedOn: 'retiringOrigin' | AnyTime;
  /** The origin is told to retire. */
  retiringOrigin: 'withoutOrigin' | AnyTime;
  withoutOrigin: 'stopped';
  /** The origin is given its disk back. */
  givingUp: 'standby' | 'relocating' | AnyTime;
  /** The origin will never take us back, and what is here is worth nothing. */
  void: 'givingUp' | AnyTime;
  stopped: never;
}

export type RelocationStateName = keyof Transitions;

export class RelocationState {
  #now: RelocationStateName;

  /** As a process finds it. */
  constructor({ complete, state, takenOverAt }: Readonly<ExportRecord>, hasOrigin: boolean) {
    if (!hasOrigin) this.#now = 'withoutOrigin';
    else if (complete) this.#now = 'completing';
    else if (state === 'retired') this.#now = 'movedOn';
    else this.#now = takenOverAt === null ? 'standby' : 'relocating';
  }

  get now(): RelocationStateName {
    return this.#now;
  }

  /** Nothing more may come of what is under way. */
  get ended(): boolean {
    return this.#now === 'void' || this.#now === 'stopped';
  }

  /** @returns false, and changes nothing, when the state is not `from` any more */
  become<From extends RelocationStateName>(from: From, to: Transitions[From]): boolean {
    if (this.#now !== from) return false;
    this.#now = to;
    return true;
  }

  /** The lease is void. @returns false when there is no lease any more */
  becomeVoid(): boolean {
    if (this.#now === 'withoutOrigin' || this.#now === 'stopped') return false;
    return this.become(this.#now, 'void');
  }

  /** Whatever it was. */
  stop(): void {
    this.#now = 'stopped';
  }
}
