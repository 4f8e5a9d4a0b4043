/** What daemon, gateway and exports say, in a real journal: with fields, identities and explanations. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { messages } from '../../src/log/messages.ts';
import { installed } from '../lab/installed.ts';
import type { JournalEntry } from '../lab/systemd/machine.ts';
import { useMachine } from '../lab/systemd/use-machine.ts';
import { waitFor } from '../lab/wait-for.ts';

describe('the journal', function () {
  this.timeout(120_000);
  const machine = useMachine({ disks: ['vm1-vda', 'vm2-vda'] });
  const vm = { name: 'vm1', uuid: randomUUID(), disks: ['vm1-vda'] };

  const life = (...words: string[]): Promise<JournalEntry[]> =>
    machine().journal('XNBD_EXPORT=vm1-vda', ...words);
  const entryOf = async (name: keyof typeof messages): Promise<JournalEntry> =>
    await waitFor(name, async () => (await life(`MESSAGE_ID=${messages[name].id}`)).at(-1));

  before(async () => {
    await machine().hook('prepare', vm);
    await machine().exec(['journalctl', '--update-catalog']);
  });

  it('has what an export says with its disk, its state and its program', async () => {
    const entry = await entryOf('export-serves');
    assert.match(entry.MESSAGE!, /serving on/);
    assert.equal(entry.PRIORITY, '6');
    assert.equal(entry.SYSLOG_IDENTIFIER, 'xnbd-export');
    assert.equal(entry._COMM, 'xnbd-export');
    assert.equal(entry.XNBD_STATE, 'serving');
    assert.equal(entry._SYSTEMD_UNIT, 'xnbd-export@vm1-vda.service');
  });

  it('has what the daemon says of a disk with the domain that uses it', async () => {
    await machine().systemctl('kill', '--signal=KILL', 'xnbd-export@vm1-vda');
    const entry = await entryOf('export-gone');
    assert.equal(entry.PRIORITY, '4');
    assert.equal(entry.SYSLOG_IDENTIFIER, 'xnbdd');
    assert.equal(entry.DOMAIN_NAME, 'vm1');
    assert.equal(entry.DOMAIN_UUID, vm.uuid);
    await waitFor('the export to be back', async () => {
      const unit = 'xnbd-export@vm1-vda';
      const restarts = await machine().property(unit, 'NRestarts');
      return restarts === '1' && (await machine().property(unit, 'ActiveState')) === 'active';
    });
  });

  it('has the peers that come through the gateway', async function () {
    if (!installed('nbdinfo')) this.skip();
    await machine().exec(['nbdinfo', 'nbd://127.0.0.1/vm1-vda']);
    const entry = await entryOf('peer-leaves');
    assert.equal(entry.SYSLOG_IDENTIFIER, 'xnbd-gateway');
    assert.match(entry.XNBD_PEER!, /^127\.0\.0\.1:/);
  });

  it('explains what it says', async () => {
    const { stdout } = await machine().exec(['journalctl', '-x', '--no-pager', 'XNBD_EXPORT=vm1-vda']);
    assert.match(stdout, /Subject: The process of a disk has ended/);
    assert.match(stdout, /-- The process of disk vm1-vda is up/);
  });

  it('is shown by xnbdctl log: a disk, and nothing of another', async () => {
    await machine().hook('prepare', { name: 'vm2', uuid: randomUUID(), disks: ['vm2-vda'] });
    const { stdout } = await machine().exec(['xnbdctl', 'log', 'vm1-vda']);
    for (const program of ['xnbdd', 'xnbd-export', 'xnbd-gateway'])
      assert.match(stdout, new RegExp(` ${program}\\[`));
    assert.doesNotMatch(stdout, /vm2/);
  });

  it('is where the log is: in the run directory is nothing but sockets, and directories of the daemon', async () => {
    const entries = await readdir(machine().outside('/run/xnbd'), { withFileTypes: true });
    const others = entries.filter((entry) => !entry.isSocket() && !entry.isDirectory());
    assert.deepEqual(
      others.map(({ name }) => name),
      [],
    );
  });
});
