/*
 * Titles that are played on a stage: a lab, with what is needed on it.
 *
 *     const { stage, begin, sure, it, story } = useStage(create);
 *     begin(async () => { guest = await ... });        // what the titles share, made on each new stage
 *     sure(() => ...);                                 // before a title plays with it: is it still as it must be?
 *     it('a title', async () => { ... });
 *     story('a title of several steps', (step) => { step('first', async () => { ... }); step(...); });
 *
 * A title that fails leaves a stage that nobody knows, so the next one has a new stage: one failure is one. Where
 * it fails by its emulation's fault (standstill.ts), that is said by name, and the title is played again from
 * its beginning, on a new stage, twice at most.
 */
import { type Lab, labUnavailable } from './lab.ts';
import { type Verdict, whyItStands } from './standstill.ts';

const REPLAYS = 2;

export interface Stage {
  readonly lab: Lab;
  destroy(): Promise<void>;
}

type Play = () => Promise<unknown>;
type Step = (name: string, play: Play) => void;
type Note = (text: string) => void;

export interface Titles<S extends Stage> {
  /** The stage; it is there only while a title is played. */
  readonly stage: () => S;
  readonly begin: (play: Play) => void;
  readonly sure: (check: Play) => void;
  readonly it: (title: string, play: (this: Mocha.Context) => Promise<unknown>) => void;
  readonly story: (title: string, steps: (step: Step) => void) => void;
}

/**
 * Called in a `describe`, whose `timeout` is that of one play of a title. Without a lab its titles are skipped.
 * @param tell prints what may tell why a title failed
 */
export function useStage<S extends Stage>(
  create: () => Promise<S>,
  tell?: (stage: S) => Promise<unknown>,
): Titles<S> {
  const theatre = new Theatre(create, tell);
  before(async function () {
    const reason = await labUnavailable();
    if (reason === undefined) return;
    console.log(`      skipped: ${reason}`);
    this.skip();
  });
  after(() => theatre.close());
  const it: Titles<S>['it'] = (title, play) => {
    globalThis.it(title, async function () {
      const limitMs = this.timeout();
      // Each play has its own.
      this.timeout(0);
      const limited = () => within(limitMs, play.call(this));
      await theatre.plays(title, limited, () => this.runnable().isPending());
    });
  };
  return {
    stage: () => theatre.stage,
    begin: (play) => void theatre.beginnings.push(play),
    sure: (check) => void theatre.checks.push(check),
    it,
    story: (title, steps) => {
      const all: [string, Play][] = [];
      steps((...step) => all.push(step));
      it(title, () => inTurn(all));
    },
  };
}

/** Plays titles, on a new stage wherever the one that is there cannot be trusted. */
export class Theatre<S extends Stage> {
  readonly beginnings: Play[] = [];
  readonly checks: Play[] = [];
  readonly #create: () => Promise<S>;
  readonly #tell: ((stage: S) => Promise<unknown>) | undefined;
  #stage: S | undefined;

  constructor(create: () => Promise<S>, tell?: (stage: S) => Promise<unknown>) {
    this.#create = create;
    this.#tell = tell;
  }

  get stage(): S {
    if (this.#stage === undefined) throw new Error('the stage is there only while a title is played');
    return this.#stage;
  }

  async close(): Promise<void> {
    const stage = this.#stage;
    this.#stage = undefined;
    await stage?.destroy();
  }

  /**
   * Plays a title, again where that is due. What is said of it names the title: others are played beside it.
   * @param skipped whether the play has ended because it does not concern this machine
   */
  async plays(title: string, play: Play, skipped: () => boolean = () => false): Promise<void> {
    const note: Note = (text) => console.log(`      ${title}: ${text}`);
    for (let replays = 0; ; replays++) {
      try {
        await this.#setUp(note);
        await play();
        return;
      } catch (error) {
        if (skipped()) throw error;
        const verdict = await this.#judge(error);
        const again = verdict?.faultOf === 'TCG' && replays < REPLAYS;
        if (verdict) note(`the fault of ${verdict.faultOf}: ${verdict.what}`);
        if (again) note(`played again, ${replays + 1} of ${REPLAYS}; it had failed so: ${String(error)}`);
        else await this.#tellAll(note);
        await this.close();
        if (!again) throw error;
      }
    }
  }

  async #setUp(note: Note): Promise<void> {
    if (this.#stage) {
      try {
        for (const check of this.checks) await check();
        return;
      } catch (error) {
        note(`on a new stage, because the last title did not leave it as it should: ${String(error)}`);
        await this.close();
      }
    }
    this.#stage = await this.#create();
    for (const begin of this.beginnings) await begin();
  }

  async #tellAll(note: Note): Promise<void> {
    if (this.#stage === undefined || this.#tell === undefined) return;
    note('what the stage tells of its failure:');
    await this.#tell(this.#stage).catch((failure: unknown) => note(String(failure)));
  }

  /** TCG's fault only if no guest waits for a disk. */
  async #judge(error: unknown): Promise<Verdict | undefined> {
    if (this.#stage === undefined || error instanceof TimeIsUp) return undefined;
    const verdicts = await Promise.all(this.#stage.lab.guests.map((guest) => whyItStands(guest)));
    return verdicts.find((each) => each?.faultOf === 'a disk') ?? verdicts.find((each) => each !== undefined);
  }
}

async function inTurn(steps: readonly [string, Play][]): Promise<void> {
  for (const [name, play] of steps)
    await play().catch((error: unknown) => {
      if (error instanceof Error) error.message = `${name}: ${error.message}`;
      throw error;
    });
}

/** What was played goes on, so it is not played again beside itself. */
class TimeIsUp extends Error {}

async function within(limitMs: number, play: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new TimeIsUp(`not at its end after ${limitMs} ms`)), limitMs);
  });
  await Promise.race([play, limit]).finally(() => clearTimeout(timer));
}
