/**
 * A disk has one guest. libvirt starts a copied domain (another name and uuid, the same disks) beside the
 * first as it starts any other; two guests that write one file system destroy it. So the start of the second
 * is refused, unless both call the disk <readonly/> or <shareable/>.
 *
 * What a domain has is known from hooks, and the hook that tells of its end may have been missed. A domain
 * counts as ended when nothing says that it runs: no hook for a while, no client on its disk, no process with
 * its uuid, and not libvirt, where that can be asked. (It is asked about the other domain: about the one that
 * starts it could not answer, because it waits for this hook.)
 */

import { hasProcess } from '../../libvirt/has-ended.ts';
import { log } from '../../log/log.ts';
import type { Host } from '../host.ts';
import { inTheBackground } from '../in-the-background.ts';
import type { UsingDomain } from '../registry/domains.ts';

/** Between a hook and what it announces nothing else may show that the domain runs. */
const hooksGraceMs = 30_000;

/**
 * The domain has its disks from now on.
 * @throws Error that names the domain which has one of them.
 */
export async function claimDisks(host: Host, domain: UsingDomain): Promise<void> {
  for (;;) {
    const rival = host.domains.rival(domain);
    // Nothing may come between the look and this.
    if (rival === undefined) return await host.domains.use(domain);
    const { domain: other, disk } = rival;
    if (await mayRun(host, other, disk)) {
      throw new Error(
        `disk ${disk} of ${domain.name} is a disk of ${other.name}, which runs here: shut ${other.name} off first, or, ` +
          'if the guests share the disk knowingly, write <shareable/> or <readonly/> into both',
      );
    }
    log.warning(`${other.name} has ended and no hook told: its disks are let go`, {
      id: 'end-not-told',
      domain: other.name,
      domainUuid: other.uuid,
    });
    await host.domains.release(other.uuid);
    for (const name of other.exports.filter((each) => !domain.exports.includes(each)))
      inTheBackground(`export ${name} goes on`, host.unused.endIfUnused(name));
  }
}

async function mayRun(host: Host, { uuid }: UsingDomain, disk: string): Promise<boolean> {
  return (
    host.domains.unusedMs(uuid) < hooksGraceMs ||
    host.moves.ofDomain(uuid)?.state === 'preparing' ||
    (host.exports.status(disk)?.clients ?? 0) > 0 ||
    (await hasProcess(uuid)) ||
    (await host.isActive(uuid)) === true
  );
}
