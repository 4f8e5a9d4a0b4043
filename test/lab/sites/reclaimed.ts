/** A disk that is taken back. */
import assert from 'node:assert/strict';
import { waitFor } from '../wait-for.ts';
import { logTells } from './interrupted-migrations.ts';
import type { Site } from './sites.ts';

export const xnbdctl = (site: Site, ...args: string[]) =>
  site.host.exec(['xnbdctl', ...args], { check: false });

/** Takes a disk back from a host that is not heard any more. */
export async function reclaimed(site: Site, name: string): Promise<void> {
  // Whoever was heard a moment ago is not lost.
  let answer = await xnbdctl(site, 'reclaim', name, '--force');
  await waitFor(
    `${name} to be taken back`,
    async () => {
      if (!/was heard \d/.test(answer.stderr)) return true;
      answer = await xnbdctl(site, 'reclaim', name, '--force');
      return answer.code === 0;
    },
    60_000,
  );
  const { code, stdout, stderr } = answer;
  assert.equal(code, 0, stderr);
  assert.match(stdout, /: reclaimed; this host owns the disk, as it was when it left$/m);
  await logTells(site, /reclaimed from b:10809 \(lease \S+\), generation 3 now/, name);
}
