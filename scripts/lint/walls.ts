/**
 * Which room may use which: imports point down only. Each list is a folder's inside, from the top floor down;
 * what stands on one floor is neighbours that do not know each other. A name that is missing here is an
 * error, so a new folder is given its floor when it is made.
 */
export const floors: Readonly<Record<string, readonly (readonly string[])[]>> = {
  src: [
    ['bin'],
    ['xnbdctl', 'daemon', 'gateway'],
    ['relocation'],
    ['export'],
    ['control', 'client', 'libvirt'],
    ['store'],
    ['pki'],
    ['nbd'],
    ['config'],
    ['system'],
    ['log'],
  ],
  'src/daemon': [
    ['daemon.ts'],
    ['guests', 'follow-up.ts'],
    ['hooks'],
    ['disks'],
    ['log-changes.ts', 'log-fields.ts'],
    ['host.ts'],
    ['dbus', 'devices'],
    ['limits'],
    ['exports'],
    ['registry'],
    ['keyed-queue.ts', 'in-the-background.ts'],
  ],
  'src/relocation': [
    ['served-proxy.ts'],
    ['relocation.ts', 'open-proxy.ts'],
    ['relocation-options.ts'],
    ['disk-copy.ts', 'guest-arrival.ts', 'relocation-memory.ts', 'relocation-state.ts'],
    ['arrival.ts'],
    ['self-check'],
    ['copy', 'proxy', 'lease'],
    ['fetch', 'path'],
    ['origin'],
  ],
  'src/export': [
    ['target.ts'],
    ['serve.ts'],
    ['hand-over'],
    ['session'],
    ['export.ts', 'local-disk.ts'],
    ['lending', 'digests.ts', 'disk.ts', 'large-requests.ts', 'service.ts', 'session-memory.ts'],
  ],
  'src/store': [
    ['records', 'maps', 'image'],
    ['countdown.ts'],
    ['completion.ts', 'directory.ts', 'block-ranges.ts'],
  ],
  'src/nbd': [
    ['transmission'],
    ['handshake'],
    ['uri.ts', 'printable.ts', 'receive-buffer.ts', 'byte-coroutine.ts', 'extent.ts'],
    ['constants.ts'],
  ],
  testbed: [['testbed.ts'], ['steps'], ['disk.ts', 'step.ts', 'deb.ts'], ['bed.ts'], ['guest'], ['machine']],
  test: [
    [
      ...['nbd', 'store', 'log', 'config', 'pki', 'client', 'libvirt', 'control', 'export', 'relocation'],
      ...['gateway', 'daemon', 'xnbdctl', 'hooks', 'packaging', 'demo', 'testbed', 'tree.test.ts'],
      ...['crash', 'chaos', 'fuzz', 'interop', 'systemd', 'e2e'],
    ],
    ['lab'],
  ],
  'test/lab': [
    ['sites'],
    ['systemd'],
    ['libvirt', 'host'],
    ['nbd'],
    ['net', 'model'],
    ['processes.ts', 'temporary-directory.ts'],
    ['installed.ts', 'wait-for.ts'],
  ],
};

/** What stands beside src/ uses of the rest no more than this. */
export const only: Readonly<Record<string, readonly string[]>> = {
  src: [],
  scripts: ['src'],
  demo: ['src', 'test/lab'],
  bench: ['src', 'test/lab'],
  testbed: ['src', 'test/lab'],
  'test/lab': ['src'],
  'test/demo': ['demo', 'src', 'test/lab'],
  'test/testbed': ['testbed', 'src', 'test/lab'],
  test: ['src', 'test/lab', 'scripts'],
};

/** Downwards, and still not: who the first is must not depend on the second. */
export const nevers: readonly (readonly [string, string])[] = [
  ['src/xnbdctl', 'src/relocation'],
  ['src/xnbdctl', 'src/export'],
  ['src/daemon', 'src/relocation'],
  ['src/daemon', 'src/export'],
  ['src/gateway', 'src/relocation'],
  ['src/gateway', 'src/export'],
];
