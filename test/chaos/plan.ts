/**
 * What happens in one story, made from a number: where the disk goes, what is killed, cut, stalled or frozen,
 * and at which point.
 *
 * A point is counted in what replays: requests of the guest while the destination stands by, blocks that have
 * arrived while the disk follows. Only where nothing can be counted (a takeover takes milliseconds) it is a
 * time.
 */
import { Random } from '../lab/model/random.ts';

export type HostName = 'a' | 'b' | 'c';

/** In this order. `complete`: every block is there, and the origin is being let go. */
export const PHASES = ['arriving', 'standby', 'takeover', 'relocating', 'complete'] as const;
export type Phase = (typeof PHASES)[number];

/**
 * `upstream`: the export from which the source itself still fetches, when the disk moves on before it is
 * complete.
 */
export type Victim =
  | 'source'
  | 'destination'
  | 'upstream'
  | 'source daemon'
  | 'destination daemon'
  | 'gateway'
  | 'link';

export interface PlannedEvent {
  phase: Phase;
  /**
   * Milliseconds since the phase began; in standby: the guest's requests; in relocating: the percentage
   * present.
   */
  after: number;
  /** `restart`: a new process takes an export over; by hand nothing does. */
  what: 'kill' | 'freeze' | 'cut' | 'stall' | 'restart';
  whom: Victim;
  /** How long whatever it is stays so, milliseconds. */
  lasts: number;
}

/** How the guest's work passes to the destination. */
export type Switchover =
  /** It rests, flushes, leaves the source, and goes on at the destination. */
  | 'orderly'
  /** As above, and an administrator (or libvirt) says `takeover` meanwhile. */
  | 'told'
  /** Writes at the source go on until they are refused. */
  | 'late writes';

export interface PlannedMove {
  from: HostName;
  to: HostName;
  /** Requests of the guest at the source while the destination stands by. */
  standbyRequests: number;
  switchover: Switchover;
  /** The move is given up in standby, and tried again. */
  givenUpFirst: boolean;
  /** The next move begins when this percentage has arrived; null: when all has. */
  onwardAt: number | null;
  events: PlannedEvent[];
}

export interface Plan {
  seed: number;
  driver: 'hand' | 'daemon';
  tls: boolean;
  sizeBytes: number;
  contentSeed: number;
  loadSeed: number;
  rttMs: number;
  rateMbit: number;
  retired: 'keep' | 'delete';
  moves: PlannedMove[];
}

const ROUTES: readonly HostName[][] = [
  ['a', 'b'],
  ['a', 'b'],
  ['a', 'b', 'c'],
  ['a', 'b', 'a'],
  ['a', 'b', 'c', 'a'],
];
const MIB = 1024 * 1024;
/** Long enough to be taken for the end of a connection. */
const SILENCE_MS = 7000;
/** A disk takes some seconds. */
const SLOW_MBIT = 50;

export function makePlan(seed: number): Plan {
  const random = new Random(seed);
  // Neighbouring numbers begin alike.
  for (let skipped = 0; skipped < 8; skipped++) random.next();
  const driver = random.pick(['hand', 'daemon'] as const);
  const plan: Plan = {
    seed,
    driver,
    tls: random.chance(3),
    sizeBytes: (16 + random.below(24)) * MIB + random.pick([0, 0, 512, 2560, 1, 4095]),
    contentSeed: random.next(),
    loadSeed: random.next(),
    rttMs: random.pick([0, 1, 2, 5, 10]),
    rateMbit: random.pick([100, 200, 400]),
    retired: random.pick(['keep', 'delete'] as const),
    moves: [],
  };
  const route = random.pick(ROUTES);
  /** Hosts that may still lend the disk. */
  let lending: HostName[] = [];
  for (let at = 0; at + 1 < route.length; at++) {
    const from = route[at]!;
    const to = route[at + 1]!;
    const next = route[at + 2];
    // A host under libvirt has one disk of a name: it cannot take back what it still lends.
    lending.push(from);
    const mayGoOn = next !== undefined && (driver === 'hand' || !lending.includes(next));
    const onwardAt = mayGoOn && random.chance(2) ? random.below(90) : null;
    const move: PlannedMove = {
      from,
      to,
      standbyRequests: random.below(120),
      switchover: random.pick(['orderly', 'told', 'late writes'] as const),
      givenUpFirst: random.chance(6),
      onwardAt,
      events: makeEvents(random, driver, at > 0 && plan.moves[at - 1]!.onwardAt !== null),
    };
    if (move.events.some(holdsWrites)) makeHeldWritesLikely(plan, move);
    plan.moves.push(move);
    if (onwardAt === null) lending = [];
  }
  return plan;
}

function makeEvents(random: Random, driver: Plan['driver'], chained: boolean): PlannedEvent[] {
  const victims: Victim[] = ['source', 'destination', 'destination', 'gateway', 'link', 'link'];
  if (driver === 'daemon') victims.push('source daemon', 'destination daemon');
  if (chained) victims.push('upstream');
  const events = Array.from({ length: random.below(6) }, (): PlannedEvent => {
    const phase = random.pick([...PHASES, 'relocating', 'relocating', 'takeover'] as const);
    const whom = random.pick(victims);
    const what =
      whom === 'link'
        ? random.pick(['cut', 'stall'] as const)
        : random.pick([
            'kill',
            'kill',
            isExport(whom) && driver === 'daemon' ? 'restart' : 'kill',
            'freeze',
          ] as const);
    const after = { arriving: 400, standby: 100, takeover: 60, relocating: 100, complete: 200 }[phase];
    // At once is a point as good as any, and the one at which takeovers are hit.
    const at = random.chance(4) ? 0 : random.below(after);
    const silent = (what === 'stall' || what === 'freeze') && random.chance(12);
    const lasts = silent ? SILENCE_MS : 20 + random.below(random.pick([100, 600, 1500]));
    return { phase, after: at, what, whom, lasts };
  });
  if (chained && random.chance(2))
    events.push({
      phase: 'takeover',
      after: 0,
      what: 'freeze',
      whom: 'upstream',
      lasts: 400 + random.below(1000),
    });
  return events.sort(
    (one, other) => PHASES.indexOf(one.phase) - PHASES.indexOf(other.phase) || one.after - other.after,
  );
}

function isExport(whom: Victim): boolean {
  return whom === 'source' || whom === 'destination' || whom === 'upstream';
}

/** Writes wait at the source for its own origin when the fence is made: it has to wait for them. */
export function holdsWrites({ phase, what, whom }: PlannedEvent): boolean {
  return phase === 'takeover' && what === 'freeze' && whom === 'upstream';
}

/** Most blocks are still at the source's own origin when the disk moves on. */
function makeHeldWritesLikely(plan: Plan, move: PlannedMove): void {
  const before = plan.moves.at(-1)!;
  before.onwardAt = Math.min(before.onwardAt!, 15);
  plan.rateMbit = SLOW_MBIT;
  move.standbyRequests %= 30;
  move.switchover = 'late writes';
}

/** For people: a line a move, a line an event. */
export function describePlan(plan: Plan): string[] {
  const { driver, tls, sizeBytes, rttMs, rateMbit, retired, moves } = plan;
  const how = driver === 'hand' ? 'by hand' : 'by xnbdd';
  return [
    `seed ${plan.seed}: ${how}${tls ? ', TLS' : ''}, ${sizeBytes} bytes, ${rttMs} ms, ${rateMbit} Mbit/s, retired = ${retired}`,
    ...moves.flatMap((move) => [
      `  ${move.from} -> ${move.to}: ${move.standbyRequests} requests in standby, ${move.switchover}` +
        (move.givenUpFirst ? ', given up first' : '') +
        (move.onwardAt === null ? '' : `, moves on at ${move.onwardAt} %`),
      ...move.events.map((event) => `    ${describeEvent(event)}`),
    ]),
  ];
}

export function describeEvent({ phase, after, what, whom, lasts }: PlannedEvent): string {
  const unit = { arriving: ' ms', standby: ' requests', takeover: ' ms', relocating: ' %', complete: ' ms' }[
    phase
  ];
  return `${phase} + ${after}${unit}: ${what} ${whom}, for ${lasts} ms`;
}
