/** What xnbdctl says of the guest's disk on a machine. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExportStatus } from '../src/control/status.ts';
import { EXPORT } from './guest/guest.ts';
import type { Machine } from './machine/machine.ts';

export async function diskOf(machine: Machine): Promise<ExportStatus> {
  const [status] = JSON.parse(await machine.sh(`xnbdctl status ${EXPORT} --json`)) as ExportStatus[];
  if (status === undefined) throw new Error(`${machine.name} has no disk ${EXPORT}`);
  return status;
}

/** The process that serves it, as systemd knows it: that costs less than to ask the process. */
export async function servingPid(machine: Machine): Promise<string> {
  return machine.sh(`systemctl show --value -p MainPID xnbd-export@${EXPORT}.service`);
}

/** Waits until it has a state. Each question costs a machine a second. */
export async function untilDiskIs(
  machine: Machine,
  state: ExportStatus['state'],
  limitMs = 180_000,
): Promise<ExportStatus> {
  for (const deadline = performance.now() + limitMs; ; await sleep(2000)) {
    const status = await diskOf(machine);
    if (status.state === state) return status;
    if (performance.now() > deadline)
      throw new Error(
        `${EXPORT} at ${machine.name} is ${status.state} still, not ${state}: ${JSON.stringify(status)}`,
      );
  }
}
