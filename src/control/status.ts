/**
 * The status of an export: what it says of itself on its control socket. This table is the only place that
 * lists the properties; types, what an export starts from, what daemon and xnbdctl make of another release's
 * status, D-Bus, the lines of `xnbdctl status` and docs/reference.md follow from it.
 *
 * Exports outlive the daemon's upgrade, so the one who reads may be newer or older than the one who writes
 * (`readStatus`). A new property is a row here and a value where it is known (src/export/serve.ts, or
 * `describe` of src/relocation/served-proxy.ts); one that is given up may go.
 */
import {
  count,
  countOrNull,
  duration,
  durationOrNull,
  type Kind,
  listOf,
  type ObjectOf,
  objectOf,
  orNull,
  smallCount,
  text,
  textOrNull,
  texts,
  truth,
  type ValueOf,
  word,
} from './values.ts';

/** A stretch of a disk, bytes. */
const range = { offset: count, length: count };

/** A stretch of a disk that cannot be copied, and where that fails. */
const badRange = objectOf({ ...range, at: word(['origin', 'image'], 'origin') });

/** A comparison of a disk with its origin (src/relocation/self-check/verification.ts). Bytes. */
const verification = objectOf({
  /** `passed`: no difference; `failed`: it could not be carried out. */
  state: word(['running', 'passed', 'differs', 'failed'], 'failed'),
  /** What travelled. */
  by: word(['hashes', 'data'], 'data'),
  /** How far it has come over the disk. */
  walkedBytes: count,
  comparedBytes: count,
  /** Not compared: written since the takeover, and not here yet. */
  writtenBytes: count,
  absentBytes: count,
  /** Found different, and where: the first ranges. */
  differentBytes: count,
  different: listOf(objectOf(range)),
  /** Different, but perhaps written before a loss of power, and where. */
  doubtfulBytes: count,
  doubtful: listOf(objectOf(range)),
  /** Why it failed, one line, or null. */
  error: textOrNull,
});

/** `unknown`: a state of another release, of which nothing must follow here. */
const state = word(
  ['serving', 'lent', 'fencing', 'fenced', 'retired', 'standby', 'relocating', 'reclaimed', 'unknown'],
  'unknown',
);

export type BadRange = ValueOf<typeof badRange>;
export type VerificationStatus = ValueOf<typeof verification>;
export type ExportState = ValueOf<typeof state>;

/** What D-Bus shows of a value. */
export type BusProperty<Value> = Pick<Kind<Value>, 'signature' | 'toBus'>;

/** A row of the table. */
export interface StatusProperty<Value> {
  /** How it is read, what it is where an export does not tell, its D-Bus type. */
  kind: Kind<Value>;
  /** Of a number that is more than a number. */
  unit?: 'bytes' | 'seconds' | 'bit/s';
  /** Begins its line in `xnbdctl status NAME`; null: it has none, or is part of another's. */
  label: string | null;
  /** One sentence, for documents. */
  help: string;
  /** Its D-Bus properties, where that is not the one of its own name in CamelCase. */
  bus?: Readonly<Record<string, BusProperty<Value>>>;
}

const property = <Value>(row: StatusProperty<Value>): StatusProperty<Value> => row;

/** Bytes of a comparison, one D-Bus property; 0 where there is none. */
const comparedOnBus = (
  bytes: (each: VerificationStatus) => number,
): BusProperty<VerificationStatus | null> => ({
  signature: 't',
  toBus: (each) => BigInt(each === null ? 0 : bytes(each)),
});

/** In the order of the lines of `xnbdctl status NAME`. */
const statusProperties = {
  name: property({ kind: text, label: 'name', help: 'name of the export' }),
  state: property({
    kind: state,
    label: 'state',
    help: 'where the disk stands in its life (architecture.md)',
  }),
  pid: property({ kind: smallCount, label: null, help: 'process that serves the export' }),
  release: property({
    kind: text,
    label: null,
    help: 'release of the program that the process runs; empty: one that does not tell',
  }),
  uuid: property({
    kind: text,
    label: 'identity',
    help: 'identity of the disk, the same on every host that it moves to',
  }),
  generation: property({ kind: count, label: null, help: 'grows by one with each takeover' }),
  sizeBytes: property({ kind: count, unit: 'bytes', label: 'size', help: 'size of the disk' }),
  presentBytes: property({
    kind: count,
    unit: 'bytes',
    label: 'present',
    help: 'bytes that are here, holes included',
  }),
  onDemandBytes: property({
    kind: count,
    unit: 'bytes',
    label: 'on demand',
    help: 'bytes fetched because a client asked for them',
  }),
  backgroundBytes: property({
    kind: count,
    unit: 'bytes',
    label: 'background',
    help: 'bytes fetched by the background copy',
  }),
  skippedBytes: property({
    kind: count,
    unit: 'bytes',
    label: 'skipped',
    help: 'bytes never fetched because they are holes (or zeros) at the origin',
  }),
  missingBytes: property({
    kind: count,
    unit: 'bytes',
    label: 'depends',
    help: 'bytes that are only at the origin still, holes not counted as far as they are known',
  }),
  secondsLeft: property({
    kind: durationOrNull,
    unit: 'seconds',
    label: null,
    help: 'until all of them are here, as fast as they come now; null: that cannot be said (yet, or while it pauses)',
  }),
  arrivalRate: property({
    kind: count,
    unit: 'bit/s',
    label: 'rate',
    help: 'how fast the disk comes, of the last seconds',
  }),
  averageRate: property({
    kind: count,
    unit: 'bit/s',
    label: null,
    help: 'and from the takeover until now, or until all was here',
  }),
  alarm: property({
    kind: textOrNull,
    label: 'alarm',
    help: 'nothing comes and no reason is known, or the time left has doubled: one line',
  }),
  secondsSinceTakeover: property({
    kind: duration,
    unit: 'seconds',
    label: 'takeover',
    help: 'from the takeover until now, or until the last block was here; 0 before the takeover',
  }),
  origin: property({
    kind: textOrNull,
    label: 'origin',
    help: 'URI of the origin, while there is one',
  }),
  originReachable: property({
    kind: truth(true),
    label: null,
    help: 'false while the link to the origin is down; true where there is no origin',
  }),
  originUnreachableSince: property({
    kind: textOrNull,
    label: 'unreachable',
    help: 'since when the origin cannot be reached, ISO 8601',
  }),
  originUnreachableReason: property({
    kind: textOrNull,
    label: null,
    help: 'why the origin cannot be reached, one line',
  }),
  originTimeoutSeconds: property({
    kind: countOrNull,
    unit: 'seconds',
    label: 'timeout',
    help: "how long a client's request may wait for the origin before it gets EIO; null: for ever",
  }),
  requestsWaiting: property({
    kind: smallCount,
    label: 'waiting',
    help: 'requests of clients that wait for the origin now',
  }),
  settings: property({
    kind: texts,
    label: 'settings',
    help: 'settings of the disk that are in force, as they are written, by their names',
  }),
  share: property({
    kind: countOrNull,
    unit: 'bit/s',
    label: 'share',
    help: 'what the daemon lets the disk have of a rate that several share; null: as much as comes',
  }),
  copyHeld: property({
    kind: truth(false),
    label: null,
    help: 'the background copy would go faster if its share, or a setting of the disk, let it',
  }),
  copyPaused: property({
    kind: textOrNull,
    label: 'paused',
    help: 'why the background copy pauses (no room, an administrator, a rate of 0, a queue), one line',
  }),
  badBytes: property({
    kind: count,
    unit: 'bytes',
    label: 'bad',
    help: 'bytes that could not be copied so far: the origin cannot read them, or the image not take them',
  }),
  badRanges: property({
    kind: listOf(badRange),
    label: null,
    help: 'where those are, the first few: offset, length, and at which end they fail (origin or image)',
    bus: {},
  }),
  originDataBytes: property({
    kind: countOrNull,
    unit: 'bytes',
    label: null,
    help: 'in standby: data at the origin, as far as it tells (what the destination will need at most)',
  }),
  verification: property({
    kind: orNull(verification, { null: '' }),
    label: 'compared',
    help: 'the comparison with the origin that runs or ran last, since the start; null: none',
    bus: {
      VerificationState: { signature: 's', toBus: (each) => each?.state ?? '' },
      VerificationComparedBytes: comparedOnBus(({ comparedBytes }) => comparedBytes),
      VerificationWrittenBytes: comparedOnBus(({ writtenBytes }) => writtenBytes),
      VerificationDifferentBytes: comparedOnBus(({ differentBytes }) => differentBytes),
      VerificationDoubtfulBytes: comparedOnBus(({ doubtfulBytes }) => doubtfulBytes),
    },
  }),
  lease: property({
    kind: textOrNull,
    label: 'lent to',
    help: 'tag of the lease attached to this export (its uuid is a secret)',
  }),
  movedTo: property({
    kind: textOrNull,
    label: null,
    help: 'HOST:PORT that took the disk over from here; empty: it did not tell; null: nobody did',
  }),
  movedAt: property({ kind: textOrNull, label: 'moved to', help: 'when that was, ISO 8601' }),
  clients: property({
    kind: smallCount,
    label: 'clients',
    help: 'clients connected now, the lease holder not counted',
  }),
  writtenBytes: property({
    kind: count,
    unit: 'bytes',
    label: null,
    help: 'bytes that clients wrote here since the start',
  }),
  image: property({ kind: text, label: 'image', help: 'path of the image' }),
  socket: property({ kind: text, label: 'socket', help: 'path of the NBD socket' }),
  error: property({
    kind: textOrNull,
    label: 'error',
    help: 'the last error that an administrator should know of, one line',
  }),
};

export type StatusName = keyof typeof statusProperties;

type KindOf<Row> = Row extends StatusProperty<infer Value> ? Kind<Value> : never;

export type ExportStatus = ObjectOf<{ [Name in StatusName]: KindOf<(typeof statusProperties)[Name]> }>;

/** Every row, without the type of its own value. */
export const statusRows = Object.entries(statusProperties) as [StatusName, StatusProperty<unknown>][];

const status = objectOf(
  Object.fromEntries(statusRows.map(([name, { kind }]) => [name, kind])),
) as unknown as Kind<ExportStatus>;

/** The status of an export that tells nothing. */
export const emptyStatus: Readonly<ExportStatus> = status.empty;

/**
 * A whole status from what an export of any release sent: what it lacks, or has with another type, is empty;
 * what is not known here is dropped.
 */
export function readStatus(value: unknown): ExportStatus {
  return status.read(value) ?? { ...emptyStatus };
}
