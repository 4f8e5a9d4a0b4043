/**
 * Keeps org.xnbd1 on the bus in step with the exports and relocations of this host. The daemon serves hooks
 * with or without a bus: where there is none, or it goes away, this tries again and then shows everything
 * anew.
 */
import type { ExportStatus } from '../../control/protocol.ts';
import { log } from '../../log/log.ts';
import type { Exports } from '../exports/exports.ts';
import type { Domains } from '../registry/domains.ts';
import type { RelocationRecord } from '../registry/move-file.ts';
import type { Relocations } from '../registry/moves.ts';
import type { CompletedDisk, RelocationStatus } from './interfaces.ts';
import { DBusService } from './service.ts';

const retryMs = 15_000;

export interface PublisherOptions {
  /** 'system', or the address of a bus. */
  address: string;
  version: string;
  exports: Exports;
  domains: Domains;
  relocations: Relocations;
  takeover(name: string): Promise<void>;
  verify(name: string): Promise<void>;
  accept(name: string): Promise<void>;
  abandon(name: string): Promise<void>;
}

export class Publisher {
  readonly #options: PublisherOptions;
  #service: DBusService | undefined;
  #retry: NodeJS.Timeout | undefined;
  #closed = false;
  #complained = false;

  constructor(options: PublisherOptions) {
    this.#options = options;
  }

  get connected(): boolean {
    return this.#service !== undefined;
  }

  /** Tries to get on the bus; resolves after the first attempt, whatever came of it. */
  async connect(): Promise<void> {
    if (this.#closed) return;
    try {
      const service = await DBusService.connect({
        ...this.#options,
        onClosed: (reason) => {
          this.#service = undefined;
          log.warning(`D-Bus has gone away (${reason}): org.xnbd1 is not on the bus until it is back`);
          this.#again();
        },
      });
      this.#service = service;
      this.#complained = false;
      for (const status of this.#options.exports.running()) this.export(status);
      for (const relocation of this.#options.relocations.all()) this.relocation(relocation);
      await this.#options.relocations.tellUntold();
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

  export(status: ExportStatus): void {
    const relocation = this.#options.relocations.ofExport(status.name);
    const domain = this.#options.domains.using(status.name)?.name ?? relocation?.domain.name ?? '';
    this.#service?.setExport(status, domain);
    if (relocation !== undefined) this.relocation(relocation);
  }

  /** Sends the signal that a disk's origin was lost, or is back, if `status` says so and `before` did not. */
  originChanged(status: ExportStatus, before: ExportStatus | undefined): void {
    const wasReachable = before?.originReachable ?? true;
    if (status.originReachable === wasReachable) return;
    if (status.originReachable) this.#service?.originReachable(status);
    else this.#service?.originUnreachable(status);
  }

  /** Sends the signal that a disk was found to differ from its origin. */
  verificationChanged(status: ExportStatus, before: ExportStatus | undefined): void {
    const { verification } = status;
    if (verification?.state === 'differs' && before?.verification?.state !== 'differs')
      this.#service?.verificationFailed(status, verification);
  }

  removeExport(name: string): void {
    this.#service?.removeExport(name);
  }

  relocation(relocation: RelocationRecord): void {
    this.#service?.setRelocation(this.#describe(relocation));
  }

  removeRelocation(relocation: RelocationRecord): void {
    this.#service?.removeRelocation(relocation.id);
  }

  /** Sends the signal of the state that a relocation came into. */
  tell(relocation: RelocationRecord, state: RelocationRecord['state']): void {
    const status = { ...this.#describe(relocation), state };
    switch (state) {
      case 'preparing':
        return;
      case 'relocating':
        this.#service?.relocationStarted(status);
        return;
      case 'completed':
        this.#service?.relocationCompleted(status, completedDisks(relocation));
        return;
      case 'failed':
        this.#service?.relocationFailed(status, relocation.reason ?? '');
    }
  }

  #describe(relocation: RelocationRecord): RelocationStatus {
    const names = Object.keys(relocation.disks);
    const statuses = names.flatMap((name) => this.#options.exports.status(name) ?? []);
    return {
      uuid: relocation.id,
      domain: relocation.domain.name,
      domainUuid: relocation.domain.uuid,
      state: relocation.state,
      disks: names,
      sizeBytes: statuses.reduce((sum, status) => sum + status.sizeBytes, 0),
      presentBytes: statuses.reduce((sum, status) => sum + status.presentBytes, 0),
      reason: relocation.reason,
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#retry);
    this.#service?.close();
    this.#service = undefined;
  }
}

function completedDisks(relocation: RelocationRecord): CompletedDisk[] {
  return Object.entries(relocation.disks).flatMap(([name, done]) => (done === null ? [] : { name, ...done }));
}
