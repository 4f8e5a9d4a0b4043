/**
 * What can be asked of an export on its control socket: the only place that lists the methods. What an
 * export does for each is in src/export/serve.ts, where the compiler asks for one function a key; what the
 * server refuses, the methods of org.xnbd1.Export and docs/reference.md follow from the keys.
 */

interface MethodRow {
  /** One sentence, for documents. */
  readonly help: string;
  /** Its name in org.xnbd1.Export, where D-Bus has it (for root alone). */
  readonly bus?: string;
  /** Its parameters, which are strings on D-Bus, as its result is then; left out: neither. */
  readonly takes?: readonly string[];
}

const controlMethods = {
  status: { help: 'the status, once' },
  watch: {
    help: 'the status now, on each change of state, and at most twice a second while its counters move',
  },
  takeover: {
    help: 'fence the origin and begin to keep blocks; answers once that is so (at once where it is so already)',
    bus: 'Takeover',
  },
  'source-gone': {
    help: 'the guest that used this export as its disk is gone; the lease holder is told',
  },
  'source-leaves': {
    help: 'libvirt migrates the guest away that uses this export; the lease holder may take the disk over',
  },
  'new-guest': {
    help: 'a guest is about to be started on this export; leases for an earlier one are void; refused where the disk is not to be had',
  },
  reclaim: {
    help: 'take a fenced disk back from a lease holder that is lost; refused while that is alive',
  },
  abandon: {
    help: 'give the origin back, delete image, map and record, end; refused once a write has been acknowledged',
    bus: 'Abandon',
  },
  verify: {
    help: 'begin to compare the disk with its origin, if that is not under way; the status tells the rest',
    bus: 'Verify',
  },
  accept: {
    help: 'the differences that were found stay, and the origin may be let go',
    bus: 'Accept',
  },
  set: {
    help: 'change the setting `"key"` of the disk to `"value"`, as it is written, or "default"; the result is what holds now',
    bus: 'Set',
    takes: ['key', 'value'],
  },
  share: {
    help: 'the daemon deals out what the host may fetch: `"rate"` is bit/s, or null for no cap, and `"why"` a line where it is 0; held until the next one',
  },
  'origin-timeout': {
    help: '`set` of origin-timeout as earlier releases say it: `"timeout"` is seconds, "none" or "default"',
  },
  restart: {
    help: 'a new process of the program as it is installed now takes over, with every client; answered only when it is refused: else the connection ends, and the new process answers on the same path',
  },
  stop: { help: 'finish requests, sync, end; nothing is deleted' },
} as const satisfies Record<string, MethodRow>;

export type ControlMethod = keyof typeof controlMethods;

export const methodRows = Object.entries(controlMethods) as [ControlMethod, MethodRow][];

/** Those that the control server answers by itself. */
export type StatusMethod = 'status' | 'watch';

/** What a request has besides id and method: from another process, not to be trusted. */
export type MethodParameters = Readonly<Record<string, unknown>>;

/** What an export does. @returns the result, for JSON. @throws Error of one line */
export type ExportMethods = Readonly<
  Record<Exclude<ControlMethod, StatusMethod>, (parameters: MethodParameters) => unknown>
>;

/** Those that D-Bus has. */
export type BusMethod = {
  [Method in ControlMethod]: (typeof controlMethods)[Method] extends { bus: string } ? Method : never;
}[ControlMethod];

/** By the name on D-Bus. */
export const busMethods: ReadonlyMap<string, { method: BusMethod; takes: readonly string[] }> = new Map(
  methodRows.flatMap(([method, { bus, takes = [] }]) =>
    bus === undefined ? [] : [[bus, { method: method as BusMethod, takes }]],
  ),
);

export function isControlMethod(method: string): method is ControlMethod {
  return Object.hasOwn(controlMethods, method);
}
