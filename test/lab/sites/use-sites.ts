/** Tests on sites: each `describe` has its own, new ones after a title that failed (../libvirt/stage.ts). */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Titles, useStage } from '../libvirt/stage.ts';
import { createSites, type Site, type Sites, type SitesOptions } from './sites.ts';

/** Called in a `describe`: its titles are played on two sites; without a lab they are skipped. */
export function useSites(options: SitesOptions = {}): { sites: () => Sites } & Titles<Sites> {
  const titles = useStage(
    () => createSites(options),
    ({ all }) => printLogs(all),
  );
  return { sites: titles.stage, ...titles };
}

/** For whoever has to find out why a test failed. */
async function printLogs(all: readonly Site[]): Promise<void> {
  for (const { host, daemon } of all) {
    const directory = host.outside('/var/lib/xnbd/log');
    const logs = (await readdir(directory)).map((name) => join(directory, name));
    for (const path of [daemon.log, ...logs]) {
      const text = await readFile(path, 'utf8').catch(() => '');
      console.log(`--- ${host.name}: ${path}\n${text.trim().split('\n').slice(-40).join('\n')}`);
    }
  }
}
