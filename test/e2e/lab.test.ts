import assert from 'node:assert/strict';
import { existsSync, readlinkSync } from 'node:fs';
import { link, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { defineGuest } from '../lab/libvirt/guest.ts';
import { accepts } from '../lab/libvirt/host.ts';
import { createLab, type Lab } from '../lab/libvirt/lab.ts';
import { BLOCK_SIZE, createPatternImage, differences } from '../lab/libvirt/pattern.ts';
import { useStage } from '../lab/libvirt/stage.ts';
import { run } from '../lab/processes.ts';
import { waitFor } from '../lab/wait-for.ts';

const LAB = join(import.meta.dirname, '../lab/libvirt/lab.ts');
const SIZE = 32 * 1024 * 1024;

describe('the lab itself', function () {
  this.timeout(180_000);
  const { stage, it } = useStage(async () => {
    const lab = await createLab();
    return { lab, destroy: lab.destroy };
  });

  /** One nbdkit, reached from both hosts by the same path: its socket is linked into the other's /run/xnbd. */
  async function serve({ a, b }: Lab, name: string): Promise<string> {
    const image = a.outside(`/var/lib/xnbd/images/${name}.img`);
    await createPatternImage(image, name, SIZE);
    const socket = `/run/xnbd/${name}.sock`;
    await a.spawn(['nbdkit', '--foreground', '--exportname', name, '--unix', socket, 'file', image]);
    await waitFor(socket, () => accepts(a.outside(socket)));
    await link(a.outside(socket), b.outside(socket));
    return image;
  }

  it('migrates a writing guest there and back, and the images equal the model', async () => {
    const { lab } = stage();
    const { a, b } = lab;
    const files = { vda: await serve(lab, 'vm1-vda'), vdb: await serve(lab, 'vm1-vdb') };
    const guest = await defineGuest(lab, a, {
      name: 'vm1',
      disks: [
        { target: 'vda', export: 'vm1-vda', mode: 'rewrite' },
        { target: 'vdb', export: 'vm1-vdb', mode: 'write-only' },
      ],
    });
    const compare = async (reports: Awaited<ReturnType<typeof guest.stop>>): Promise<void> => {
      assert.deepEqual(guest.errors, []);
      for (const [target, image] of Object.entries(files)) {
        const { sizeBytes, errors, writes } = reports.get(target)!;
        assert.equal(errors, 0);
        assert.equal(sizeBytes, SIZE);
        assert.ok(writes.size > 8, `${writes.size} blocks written`);
        assert.deepEqual(await differences(image, { exportName: `vm1-${target}`, sizeBytes, writes }), []);
      }
    };

    await guest.start(a);
    await guest.progress();
    await guest.migrate(a, b);
    assert.equal(await b.virsh('domstate', 'vm1'), 'running');
    await guest.progress();
    await compare(await guest.stop());
    await guest.go();
    await guest.migrate(b, a, '--live', '--p2p', '--persistent', '--undefinesource');
    await guest.progress();
    const reports = await guest.powerOff();
    await compare(reports);
    await waitFor('the guest to be off', async () => (await a.virsh('domstate', 'vm1')) === 'shut off');
    assert.ok(guest.counts.get('vda')!.reads > 0);
    assert.equal(guest.counts.get('vdb')!.reads, 0);

    const spoilt = Math.max(...reports.get('vda')!.writes.keys());
    const image = await open(files.vda, 'r+');
    await image.write(Buffer.from('x'), 0, 1, spoilt * BLOCK_SIZE + 2000);
    await image.close();
    const { sizeBytes, writes } = reports.get('vda')!;
    const [line, ...others] = await differences(files.vda, { exportName: 'vm1-vda', sizeBytes, writes });
    assert.match(line!, new RegExp(`block ${spoilt} holds .* torn instead of `));
    assert.deepEqual(others, []);
  });

  it('hears a guest complain about a block that somebody else has changed', async () => {
    const { lab } = stage();
    const { a } = lab;
    const file = await serve(lab, 'vm2-vda');
    const guest = await defineGuest(lab, a, {
      name: 'vm2',
      disks: [{ target: 'vda', export: 'vm2-vda', mode: 'rewrite' }],
      spread: 4,
    });
    await guest.start(a);
    await guest.progress();
    const image = await open(file, 'r+');
    try {
      await waitFor('a verify error', async () => {
        await image.write(Buffer.alloc(BLOCK_SIZE), 0, BLOCK_SIZE, BLOCK_SIZE);
        await guest.console.look();
        return guest.errors.some((line) => line.startsWith('verify error vda block 1: wanted seq'));
      });
    } finally {
      await image.close();
    }
    await a.virsh('destroy', 'vm2');
  });

  it('runs a guest that touches no disk, and limits the link so that its migration can be aborted', async () => {
    const { lab } = stage();
    const { a, b, setRate } = lab;
    await serve(lab, 'vm3-vda');
    const guest = await defineGuest(lab, a, {
      name: 'vm3',
      disks: [{ target: 'vda', export: 'vm3-vda', mode: 'idle' }],
    });
    await guest.start(a);
    await setRate(10);
    const migration = guest.migrate(a, b).then(
      () => 'migrated',
      (error: unknown) => String(error),
    );
    await waitFor('the memory to flow', async () =>
      /Memory processed: +[1-9]/.test(await a.virsh('domjobinfo', 'vm3')),
    );
    await a.virsh('domjobabort', 'vm3');
    assert.match(await migration, /virsh .* migrate vm3 .*: error: /);
    await setRate(undefined);
    await guest.progress(3);
    assert.equal(await a.virsh('domstate', 'vm3'), 'running');
    const reports = await guest.stop();
    assert.equal(reports.get('vda')!.writes.size, 0);
    assert.deepEqual(guest.errors, []);
    await a.virsh('destroy', 'vm3');
  });

  it('leaves nothing behind, also when the test that made it was killed', async () => {
    const second = await createLab();
    const pids = [second.a, second.b].flatMap((host) => [host.anchorPid, host.libvirtdPid]);
    await second.destroy();
    assert.deepEqual(pids.filter(isAlive), []);
    assert.ok(!existsSync(dirname(second.a.dir)));

    const script = `const { createLab } = await import(${JSON.stringify(LAB)});
      const { a, b } = await createLab();
      console.log(JSON.stringify([a.dir, a.anchorPid, a.libvirtdPid, b.anchorPid, b.libvirtdPid]));
      process.kill(process.pid, 'SIGKILL');`;
    const { stdout } = await run([process.execPath, '--input-type=module', '--eval', script], {
      check: false,
    });
    const [dir, ...left] = JSON.parse(stdout) as [string, ...number[]];
    assert.equal(left.length, 4);
    await waitFor('the end of the other lab', () => !left.some(isAlive) && !existsSync(dirname(dir)));
  });
});

/** False also for a process that has ended and that nobody has asked about yet. */
function isAlive(pid: number): boolean {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`) !== '';
  } catch {
    return false;
  }
}
