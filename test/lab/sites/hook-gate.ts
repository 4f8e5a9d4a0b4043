/**
 * A gate before our hook: a test can hold libvirt right before a hook of a host is run, do something there, and let it go on. The gate is
 * a hook script in the place of ours, which it runs then, with the same arguments and the same standard input.
 */
import { access, chmod, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import type { Host } from '../libvirt/host.ts';
import type { Lab } from '../libvirt/lab.ts';
import { waitFor } from '../wait-for.ts';
import type { Site } from './sites.ts';

const HOOK = '/etc/libvirt/hooks/qemu';
const OURS = '/etc/libvirt/hooks/xnbd-hook-itself';
const GATES = '/run/lab/gates';

const GATE = `#!/bin/sh
gate=${GATES}/$2
if [ -e "$gate" ]; then
  : >"$gate.reached"
  while [ -e "$gate" ]; do sleep 0.02; done
  rm -f "$gate.reached"
fi
exec ${OURS} "$@"
`;

/** For `useSites({ prepare })`: every host of the lab gets its gate, which stands open. */
export async function installGates({ hosts }: Lab): Promise<void> {
  for (const host of hosts) {
    await mkdir(host.outside(GATES), { recursive: true });
    await rename(host.outside(HOOK), host.outside(OURS));
    await writeFile(host.outside(HOOK), GATE);
    await chmod(host.outside(HOOK), 0o755);
  }
}

export interface Gate {
  /** Resolves when libvirt stands before it. */
  reached(): Promise<unknown>;
  /** Lets it pass, and everybody who comes later. */
  open(): Promise<void>;
}

/** Shuts the gate before a hook (`migrate`, `prepare`, ...) of a host. */
export async function shutGate(host: Host, op: string): Promise<Gate> {
  const path = host.outside(`${GATES}/${op}`);
  await writeFile(path, '');
  const there = (file: string) =>
    access(file).then(
      () => true,
      () => false,
    );
  return {
    reached: () =>
      waitFor(`libvirt to come to ${op} on ${host.name}`, () => there(`${path}.reached`), 60_000),
    open: () => rm(path, { force: true }),
  };
}

/** Kills a site's daemon while a hook, before whose gate libvirt stands, waits for its answer. */
export async function killInHook({ host, daemon }: Site, gate: Gate): Promise<void> {
  const before = await connections(host);
  process.kill(daemon.pid, 'SIGSTOP');
  await gate.open();
  await waitFor(`a hook to ask xnbdd on ${host.name}`, async () => (await connections(host)) > before);
  await daemon.end('SIGKILL');
}

/** Sockets of the hooks' address: the daemon's own, and one for each hook that waits there. */
async function connections(host: Host): Promise<number> {
  const table = await readFile(`/proc/${host.anchorPid}/net/unix`, 'utf8');
  return table.split('\n').filter((line) => line.endsWith('/run/xnbd/hook.sock')).length;
}
