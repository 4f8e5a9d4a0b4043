/**
 * Has a domain ended here? Hooks tell; but one may have been missed while the daemon was away, so others are
 * asked: libvirt, which may be silent, and the processes of the host.
 */
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** What is asked of libvirt here. */
export interface DomainSource {
  /** @throws Error when libvirt cannot be asked, or does not know the domain */
  domainXml(uuid: string): Promise<string>;
}

/** A start waits for the answer, and its hook has a limit of its own. */
const askLimitMs = 5000;

/** Undefined where libvirt cannot be asked now. */
export async function isActive(libvirt: DomainSource, uuid: string): Promise<boolean | undefined> {
  const asked = libvirt.domainXml(uuid).then(
    (xml) => /^[^<]*<domain\b[^>]*\sid=/.test(xml),
    (error: unknown) =>
      /domain not found|no domain with/i.test((error as Error).message) ? false : undefined,
  );
  return await Promise.race([asked, sleep(askLimitMs, undefined, { ref: false })]);
}

/** A hypervisor's process is told its domain's uuid on its command line (QEMU: -uuid). */
export async function hasProcess(uuid: string): Promise<boolean> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return lines.some((line) => line.toLowerCase().split('\0').includes(uuid));
}
