import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { driversOfHost } from '../../src/libvirt/drivers.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

describe('the drivers of a host', () => {
  it("are QEMU's, and Xen's where Xen has booted the kernel", async () => {
    const directory = await temporaryDirectory();
    const { path } = directory;
    try {
      assert.deepEqual(driversOfHost(path), ['QEMU']);
      await mkdir(join(path, 'sys/hypervisor'), { recursive: true });
      await writeFile(join(path, 'sys/hypervisor/type'), 'xen\n');
      assert.deepEqual(driversOfHost(path), ['QEMU', 'Xen']);
    } finally {
      await directory.remove();
    }
  });
});
