/**
 * Keeps org.xnbd1 on the bus in step with the exports and moves of this host. The daemon serves hooks with or
 * without a bus: where there is none, or it goes away, this tries again and then shows everything anew.
 */
import type { BusMethod, MethodParameters } from '../../control/methods.ts';
import type { ExportStatus } from '../../control/status.ts';
import { log } from '../../log/log.ts';
import type { Exports } from '../exports/exports.ts';
import type { Limits } from '../limits/limits.ts';
import type { Domains } from '../registry/domains.ts';
import type { Move } from '../registry/move-file.ts';
import type { Moves } from '../registry/moves.ts';
import type { CompletedDisk, RelocationStatus } from './interfaces.ts';
import { DBusService } from './service.ts';

const retryMs = 15_000;

export interface PublisherOptions {
  /** 'system', or the address of a bus. */
  address: string;
  version: string;
  exports: Exports;
  domains: Domains;
  moves: Moves;
  limits: Limits;
  /** Carries out a method of org.xnbd1.Export. @throws Error of one line */
  call(name: string, method: BusMethod, parameters: MethodParameters): Promise<unknown>;
}

export class Publisher {
  readonly #options: PublisherOptions;
  #service: DBusService | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;
  #complained = false;

  constructor(options: PublisherOptions) {
    this.#options = options;
    const { exports, moves, limits } = options;
    limits.on('changed', (now) => this.#service?.setLimits(now));
    exports.on('status', (status, before) => {
      this.#showExport(status);
      this.#signalOrigin(status, before);
      this.#signalVerification(status, before);
      const { alarm } = status;
      if (alarm !== null && alarm !== before?.alarm) this.#service?.relocationAlarm(status, alarm);
    });
    exports.on('ended', (name) => this.#service?.removeExport(name));
    moves.on('changed', (move) => this.#showMove(move));
    moves.on('removed', (move) => this.#service?.removeRelocation(move.id));
  }

  /** Tries to get on the bus; resolves after the first attempt, whatever came of it. */
  async connect(): Promise<void> {
    if (this.#closed) return;
    const { exports, moves, limits } = this.#options;
    try {
      const service = await DBusService.connect({
        ...this.#options,
        limits: () => limits.now,
        choose: (choice) => limits.choose(choice),
        onClosed: (reason) => {
          this.#service = undefined;
          void moves.signalBy(undefined);
          log.warning(`D-Bus has gone away (${reason}): org.xnbd1 is not on the bus until it is back`, {
            id: 'bus-gone',
          });
          this.#again();
        },
      });
      this.#service = service;
      this.#complained = false;
      for (const status of exports.running()) this.#showExport(status);
      for (const move of moves.all()) this.#showMove(move);
      await moves.signalBy((move, state) => this.#signalMove(move, state));
    } catch (error) {
      if (!this.#complained) log.warning(`no org.xnbd1 on D-Bus for now: ${(error as Error).message}`);
      this.#complained = true;
      this.#again();
    }
  }

  #again(): void {
    if (this.#closed) return;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => void this.connect(), retryMs);
  }

  #showExport(status: ExportStatus): void {
    const move = this.#options.moves.ofExport(status.name);
    const domain = this.#options.domains.using(status.name)?.name ?? move?.domain.name ?? '';
    this.#service?.setExport(status, domain);
    if (move !== undefined) this.#showMove(move);
  }

  /** Sends the signal that a disk's origin was lost, or is back, if `status` says so and `before` did not. */
  #signalOrigin(status: ExportStatus, before: ExportStatus | undefined): void {
    const wasReachable = before?.originReachable ?? true;
    if (status.originReachable === wasReachable) return;
    if (status.originReachable) this.#service?.originReachable(status);
    else this.#service?.originUnreachable(status);
  }

  /** Sends the signal that a disk was found to differ from its origin. */
  #signalVerification(status: ExportStatus, before: ExportStatus | undefined): void {
    const { verification } = status;
    if (verification?.state === 'differs' && before?.verification?.state !== 'differs')
      this.#service?.verificationFailed(status, verification);
  }

  #showMove(move: Move): void {
    this.#service?.setRelocation(this.#describe(move));
  }

  #signalMove(move: Move, state: Move['state']): void {
    const status = { ...this.#describe(move), state };
    switch (state) {
      case 'preparing':
        return;
      case 'relocating':
        this.#service?.relocationStarted(status);
        return;
      case 'completed':
        this.#service?.relocationCompleted(status, completedDisks(move));
        return;
      case 'failed':
        this.#service?.relocationFailed(status, move.reason ?? '');
    }
  }

  #describe(move: Move): RelocationStatus {
    const names = Object.keys(move.disks);
    const statuses = names.flatMap((name) => this.#options.exports.status(name) ?? []);
    return {
      uuid: move.id,
      domain: move.domain.name,
      domainUuid: move.domain.uuid,
      state: move.state,
      disks: names,
      sizeBytes: statuses.reduce((sum, status) => sum + status.sizeBytes, 0),
      presentBytes: statuses.reduce((sum, status) => sum + status.presentBytes, 0),
      reason: move.reason,
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#service?.close();
    this.#service = undefined;
  }
}

function completedDisks(move: Move): CompletedDisk[] {
  return Object.entries(move.disks).flatMap(([name, done]) => (done === null ? [] : { name, ...done }));
}
