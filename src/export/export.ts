/**
 * One disk as its clients see it: the disk, its lender, the sessions, and the count of what is under way.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { NBD_MAX_PAYLOAD, TransmissionFlag } from '../nbd/constants.ts';
import type { Peer } from '../nbd/handshake/peer.ts';
import type { OfferedExport, Refusal } from '../nbd/handshake/server-handshake.ts';
import type { Completion } from '../store/completion.ts';
import type { ExportRecord } from '../store/records/record.ts';
import { Digests } from './digests.ts';
import type { Disk } from './disk.ts';
import { LargeRequests } from './large-requests.ts';
import { Lender, type LenderOptions } from './lending/lender.ts';

/** What all clients together may keep under way, and what one may have of that, bytes. */
const CLIENTS_BYTES = 256 * 1024 * 1024;
const MOST_BYTES = 2 * NBD_MAX_PAYLOAD;
const LEAST_BYTES = 1024 * 1024;

const STOP_LOOK_MS = 20;
/** How long requests are waited for that may be waiting for an origin that is away. */
const ORIGIN_AWAY_GRACE_MS = 500;

export interface StopOptions {
  /** Clients that do not read their last replies are cut off after this. */
  limitMs: number;
  /** The origin cannot be reached: requests under way may be waiting for it in vain. */
  originAway: () => boolean;
}

/** What the export knows of a connection. */
export interface Client {
  /** It asked for a lease during the handshake, and got it. */
  readonly attached: boolean;
  /** The host of the network that a gateway has brought; null: a client of this host. */
  peer: Peer | null;
  /** Finishes what is under way and closes the connection. */
  stop(): void;
  /** Closes the connection now. */
  destroy(): void;
}

export interface ExportOptions {
  record: Readonly<ExportRecord>;
  disk: Disk;
  readOnly: boolean;
  lending: Omit<LenderOptions, 'record' | 'quiesce' | 'localClients' | 'changed'>;
  /** The state, or the number of clients, has changed. */
  changed: () => void;
}

export class Export {
  readonly name: string;
  readonly disk: Disk;
  readonly readOnly: boolean;
  readonly lender: Lender;
  readonly digests: Digests;
  /** Bytes that clients wrote since the start: WRITE only. */
  writtenBytes = 0;
  /** What requests that have come in half may take. */
  readonly largeRequests = new LargeRequests();
  /** A client that keeps more under way (payloads, room for answers) is read no further, bytes. */
  clientBytes = MOST_BYTES;
  readonly #changed: () => void;
  readonly #clients = new Set<Client>();
  #writesInFlight = 0;
  #onceDrained: (() => void)[] = [];

  constructor(options: ExportOptions) {
    this.name = options.record.name;
    this.disk = options.disk;
    this.digests = new Digests((into, offset, done) => options.disk.read(into, offset, done));
    this.readOnly = options.readOnly;
    this.#changed = options.changed;
    this.lender = new Lender({
      ...options.lending,
      record: options.record,
      quiesce: () => this.#quiesce(),
      localClients: () => this.localClients,
      changed: options.changed,
    });
  }

  /** Connections past the handshake, lease holders not counted. */
  get clients(): number {
    let count = 0;
    for (const client of this.#clients) if (!client.attached) count += 1;
    return count;
  }

  /** One connection is past the handshake, and no other. */
  get soleClient(): boolean {
    return this.#clients.size === 1;
  }

  /** Clients of this host past the handshake: the source's guest, while a disk is lent. */
  get localClients(): number {
    let count = 0;
    for (const client of this.#clients) if (client.peer === null && !client.attached) count += 1;
    return count;
  }

  /** What the handshake says of this export to that client, or why it is not to be had. */
  offer({ attached, peer }: Client): OfferedExport | Refusal {
    const refusal = this.lender.refusesClients();
    if (refusal !== undefined) return refusal;
    const flag = TransmissionFlag;
    // All connections share one disk: what one has been told is written, each reads, and each flush covers
    // (spec: CAN_MULTI_CONN).
    const always = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_CACHE | flag.CAN_MULTI_CONN;
    const writable = flag.SEND_TRIM | flag.SEND_WRITE_ZEROES | flag.SEND_FAST_ZERO;
    // A lease holder is told what the disk is, and refused all the same.
    const reads = this.readOnly || (peer !== null && !attached);
    const flags = always | (reads ? flag.READ_ONLY : writable);
    return { size: this.disk.size, transmissionFlags: flags };
  }

  /** A connection has finished its handshake. */
  joined(client: Client): void {
    this.#clients.add(client);
    if (!client.attached && client.peer === null) this.lender.clientCame();
    this.#share();
    this.#changed();
  }

  /** A connection is gone. @param orderly it said NBD_CMD_DISC first */
  left(client: Client, orderly: boolean): void {
    this.lender.detach(client);
    if (!this.#clients.delete(client)) return;
    this.#share();
    if (!client.attached && client.peer === null) this.lender.clientLeft(orderly, this.localClients);
    this.#changed();
  }

  #share(): void {
    const each = CLIENTS_BYTES / Math.max(1, this.#clients.size);
    this.clientBytes = Math.min(Math.max(each, LEAST_BYTES), MOST_BYTES);
  }

  /** A write, trim or zero request has been let in; `writeEnded` follows exactly once. */
  writeBegan(): void {
    this.#writesInFlight += 1;
  }

  /** @param bytes of a WRITE, 0 for the others and for a failure */
  writeEnded(bytes: number): void {
    this.#writesInFlight -= 1;
    this.writtenBytes += bytes;
    if (this.#writesInFlight > 0 || this.#onceDrained.length === 0) return;
    const waiting = this.#onceDrained;
    this.#onceDrained = [];
    for (const resolve of waiting) resolve();
  }

  /**
   * Lets every client finish what is under way, then makes the disk durable. Clients still busy after
   * `limitMs` are disconnected (after ORIGIN_AWAY_GRACE_MS if the origin is away). Their open requests get no
   * reply, so they were never acknowledged.
   * @returns errno of making it durable
   */
  async stop({ limitMs, originAway }: StopOptions): Promise<number> {
    this.lender.stop();
    const deadline = performance.now() + limitMs;
    const graceEnds = performance.now() + ORIGIN_AWAY_GRACE_MS;
    const over = (): boolean => performance.now() > (originAway() ? graceEnds : deadline);
    for (const client of [...this.#clients]) client.stop();
    while (this.#clients.size > 0 && !over()) await sleep(STOP_LOOK_MS);
    for (const client of [...this.#clients]) client.destroy();
    // Writes of clients that are gone may be waiting for an origin that is gone too.
    while (this.#writesInFlight > 0 && !over()) await sleep(STOP_LOOK_MS);
    return this.flush();
  }

  /** Makes the disk durable. @returns errno */
  flush(): Promise<number> {
    return new Promise((resolve) => {
      const done: Completion = { complete: resolve };
      this.disk.flush(done);
    });
  }

  /** The caller lets no new write in. @returns errno of the flush, once the writes in flight have ended. */
  async #quiesce(): Promise<number> {
    await this.#drained();
    return this.flush();
  }

  #drained(): Promise<void> {
    if (this.#writesInFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onceDrained.push(resolve));
  }
}
