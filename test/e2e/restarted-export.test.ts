/** The process of a disk is replaced under a guest that writes and verifies: the guest notices a wait, and no error. */
import assert from 'node:assert/strict';
import { newRecord, writeRecord } from '../../src/store/records/record.ts';
import { defineGuest } from '../lab/libvirt/guest.ts';
import { createPatternImage } from '../lab/libvirt/pattern.ts';
import { logOf } from '../lab/sites/interrupted-migrations.ts';
import { wrongBytes } from '../lab/sites/sites.ts';
import { useSites } from '../lab/sites/use-sites.ts';

const SIZE = 32 * 1024 * 1024;
const TIMES = 20;

describe('a guest whose export is restarted', function () {
  this.timeout(300_000);
  const { sites, it } = useSites();

  it(`writes on without an error, ${TIMES} times`, async () => {
    const { lab, a } = sites();
    const disk = 'replaced-vda';
    await createPatternImage(a.image(disk), disk, SIZE);
    await writeRecord(
      a.host.outside(`/var/lib/xnbd/exports/${disk}`),
      newRecord(disk, `/var/lib/xnbd/images/${disk}.img`, SIZE),
    );
    // Any error reaches the guest, and QEMU does not connect again.
    const guest = await defineGuest(lab, a.host, {
      name: 'replaced',
      disks: [{ target: 'vda', export: disk, mode: 'rewrite', away: 'report' }],
    });
    await guest.start(a.host);
    await guest.progress();
    guest.slowestMs = 0;
    for (let times = 0; times < TIMES; times++) {
      const { pid } = (await a.status(disk))!;
      const { stdout } = await a.host.exec(['xnbdctl', 'restart', disk]);
      assert.match(stdout, new RegExp(`process ${pid} is replaced by`));
      assert.notEqual((await a.status(disk))!.pid, pid);
      await guest.progress(1);
      assert.deepEqual(guest.errors, []);
    }
    const waits = [...(await logOf(a, disk)).matchAll(/which waited (\d+) ms/g)].map(([, ms]) => Number(ms));
    assert.equal(waits.length, TIMES);
    console.log(`      its connection waited, ms: ${waits.join(' ')}`);
    console.log(`      slowest request as the guest tells: ${guest.slowestMs} ms`);
    const reports = await guest.powerOff();
    for (const { errors } of reports.values()) assert.equal(errors, 0);
    assert.deepEqual(await wrongBytes(a, guest, reports), []);
    assert.doesNotMatch(await logOf(a), /replaced-vda.* is gone/);
  });
});
