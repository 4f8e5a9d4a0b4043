/**
 * The limits of this host in force: what xnbd.conf and an administrator say, looked up several times a second
 * and dealt out to the exports (dealer.ts).
 */
import { EventEmitter } from 'node:events';
import { stat } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { type CapsNow, type Choices, capsNow } from '../../config/caps.ts';
import type { Config } from '../../config/config.ts';
import { log } from '../../log/log.ts';
import { type Choice, choicesPath, choose, readChoices } from '../../store/records/choices.ts';
import type { Exports } from '../exports/exports.ts';
import { Dealer } from './dealer.ts';

const TURN_MS = 250;

export interface LimitsNow {
  readonly caps: CapsNow;
  /** All copies pause. */
  readonly paused: boolean;
  /** Disks of which blocks are still to come, and how many of those queue. */
  readonly arriving: number;
  readonly queued: number;
  /** What comes of all of them, bit/s. */
  readonly rate: number;
}

export interface LimitsEvents {
  /** Something of `now` is another. */
  changed: [LimitsNow];
}

export class Limits extends EventEmitter<LimitsEvents> {
  readonly #config: Config;
  readonly #path: string;
  #dealer: Dealer | undefined;
  #choices: Choices = { peers: new Map(), paused: false };
  /** The file that they were read from. */
  #read = '';
  #complaint: string | null = null;
  #shown: LimitsNow | undefined;
  #timer: NodeJS.Timeout | undefined;
  #turning: Promise<void> | undefined;

  constructor(config: Config) {
    super();
    this.#config = config;
    this.#path = choicesPath(config.paths);
  }

  /** Reads what was chosen before, and deals from now on. */
  async start(exports: Exports): Promise<void> {
    this.#dealer = new Dealer({ exports, config: this.#config });
    await this.turn();
    this.#timer = setInterval(() => void this.turn(), TURN_MS);
  }

  /** Looks and deals once; one turn is over before the next begins. */
  turn(): Promise<void> {
    this.#turning ??= this.#turn().finally(() => {
      this.#turning = undefined;
    });
    return this.#turning;
  }

  get now(): LimitsNow {
    return {
      caps: this.#caps(),
      paused: this.#choices.paused,
      ...(this.#dealer?.sums ?? { arriving: 0, queued: 0, rate: 0 }),
    };
  }

  /** Kept, then in force. @throws Error of one line */
  async choose(choice: Choice): Promise<void> {
    await choose(this.#path, choice);
    await this.#turning;
    await this.turn();
  }

  close(): void {
    clearInterval(this.#timer);
  }

  async #turn(): Promise<void> {
    try {
      await this.#look();
      await this.#dealer?.deal(this.#caps(), this.#choices.paused);
      this.#complaint = null;
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#complaint) log.error(`limits are left as they are: ${message}`);
      this.#complaint = message;
    }
    const { now } = this;
    if (isDeepStrictEqual(now, this.#shown)) return;
    this.#shown = now;
    this.emit('changed', now);
  }

  async #look(): Promise<void> {
    const found = await stat(this.#path, { bigint: true }).catch(() => null);
    const file = found === null ? '' : `${found.ino} ${found.mtimeNs} ${found.size}`;
    if (file === this.#read) return;
    this.#choices = await readChoices(this.#path);
    this.#read = file;
  }

  #caps(): CapsNow {
    return capsNow(this.#config, this.#choices, new Date());
  }
}
