import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { formatAddress, parseAddress } from '../../src/config/address.ts';
import { ConfigError, loadConfig, parseConfig } from '../../src/config/config.ts';
import { relocationRows } from '../../src/config/settings.ts';

const example = join(import.meta.dirname, '../../etc/xnbd.conf');

/** The lines of the error that the text gives. */
function faults(text: string): string[] {
  try {
    parseConfig(text, 'x.conf');
  } catch (error) {
    assert.ok(error instanceof ConfigError);
    return error.message.split('\n');
  }
  return [];
}

describe('configuration', () => {
  it('has a default for everything', () => {
    assert.deepEqual(parseConfig('', 'x.conf'), {
      paths: { images: '/var/lib/xnbd/images', exports: '/var/lib/xnbd/exports', run: '/run/xnbd' },
      gateway: {
        listen: { host: '::', port: 10809 },
        advertise: { host: hostname(), port: 10809 },
        tls: 'required',
      },
      tls: { ca: null, crl: null, cert: null, key: null, clientCert: null, clientKey: null, allow: [] },
      relocation: Object.fromEntries(relocationRows.map(([name, row]) => [name, row.parse(row.default)])),
      peers: [],
      peerRates: new Map(),
      libvirt: { dbus: 'system' },
      log: { level: 'info' },
    });
  });

  it('of relocations: the defaults that there always were', () => {
    const { relocation } = parseConfig('', 'x.conf');
    assert.deepEqual(
      [relocation['prepare-timeout'], relocation.retired, relocation['origin-timeout'], relocation.verify],
      [60, 'keep', null, false],
    );
  });

  it('reads every key, comments, and white space of all kinds', () => {
    const text = [
      '# a comment',
      '\t[paths]  \r',
      'images=/a b/c',
      '  exports   =\t/e\r',
      'run = /r',
      '; another = comment',
      '[gateway]',
      'listen = [2001:db8::1]:1',
      'tls = off',
      '[tls]',
      'ca = /t/ca',
      'crl = /t/crl',
      'cert = /t/c',
      'key = /t/k',
      'client-cert = /t/cc',
      'client-key = /t/ck',
      `allow = b.example, Site B ,SHA256:${'Ab:'.repeat(31)}CD`,
      '[relocation]',
      'prepare-timeout = 86400',
      'rate = 200M',
      'rate-schedule = Mon-Fri 08:00-18:00 20M, 22:00-06:00 none',
      'max-arriving = 3',
      'copy-rate = 1.5G',
      'weight = 10000',
      'paused = on',
      'retired = delete',
      'origin-timeout = 30',
      'verify = on',
      '[peers]',
      'zeta = z.example:65535',
      'alpha = 192.0.2.1:10809',
      '[peer-rate]',
      'zeta = 50M',
      'alpha = 0',
      '[peer-rate-schedule]',
      'zeta = 00:00-12:00 10M',
      '[libvirt]',
      'dbus = unix:path=/run/x,guid=00',
      '[log]',
      'level = debug',
    ].join('\n');
    assert.deepEqual(parseConfig(text, 'x.conf'), {
      paths: { images: '/a b/c', exports: '/e', run: '/r' },
      gateway: {
        listen: { host: '2001:db8::1', port: 1 },
        advertise: { host: hostname(), port: 1 },
        tls: 'off',
      },
      tls: {
        ca: '/t/ca',
        crl: '/t/crl',
        cert: '/t/c',
        key: '/t/k',
        clientCert: '/t/cc',
        clientKey: '/t/ck',
        allow: ['b.example', 'Site B', `sha256:${'ab'.repeat(31)}cd`],
      },
      relocation: {
        ...parseConfig('', 'x.conf').relocation,
        'prepare-timeout': 86_400,
        rate: 200e6,
        'rate-schedule': [
          { days: [1, 5], from: 480, to: 1080, rate: 20e6 },
          { days: null, from: 1320, to: 360, rate: null },
        ],
        'max-arriving': 3,
        'copy-rate': 1.5e9,
        weight: 10_000,
        paused: true,
        retired: 'delete',
        'origin-timeout': 30,
        verify: true,
      },
      peers: [
        { name: 'zeta', host: 'z.example', port: 65_535 },
        { name: 'alpha', host: '192.0.2.1', port: 10_809 },
      ],
      peerRates: new Map([
        ['zeta', { rate: 50e6, schedule: [{ days: null, from: 0, to: 720, rate: 10e6 }] }],
        ['alpha', { rate: 0, schedule: null }],
      ]),
      libvirt: { dbus: 'unix:path=/run/x,guid=00' },
      log: { level: 'debug' },
    });
  });

  it('names all faults of a file at once, each with its line and what is allowed', () => {
    const text = `key = 1
[paths]
images = relative
exports = /x ; why
foo = 1
[gateway]
listen = [::1]:99999
tls = maybe
[gateway]
[nope]
a = b
[peers
[peers]
a.b = c:1
d = nowhere
listen
[relocation]
prepare-timeout = 0
retired =
retired = keep
[log]
level = "info"
`;
    assert.deepEqual(faults(text), [
      "x.conf:1: 'key' stands before the first section; allowed is a [SECTION] line before it",
      'x.conf:3: images = relative in [paths]: allowed is an absolute path',
      "x.conf:4: exports = /x ; why: a value has no quotes, '\\', '#' or ';'; a comment has its own line",
      "x.conf:5: unknown key 'foo' in [paths]; allowed: images, exports, run",
      'x.conf:7: listen = [::1]:99999 in [gateway]: allowed is HOST:PORT or [IPV6]:PORT, the port from 1 to 65535',
      'x.conf:8: tls = maybe in [gateway]: allowed is required or off',
      'x.conf:9: section [gateway] again, first in line 6; allowed is one of each',
      'x.conf:10: unknown section [nope]; allowed are [paths] [gateway] [tls] [relocation] [peers] [peer-rate] [peer-rate-schedule] [libvirt] [log]',
      "x.conf:12: '[peers' is no section; allowed is [NAME] alone on its line",
      "x.conf:14: 'a.b' is no name; allowed are letters, digits, '_' and '-', a letter first",
      'x.conf:15: d = nowhere in [peers]: allowed is HOST:PORT or [IPV6]:PORT, the port from 1 to 65535',
      "x.conf:16: 'listen' has no '='; allowed is KEY = VALUE",
      'x.conf:18: prepare-timeout = 0 in [relocation]: allowed is a number of seconds from 1 to 86400',
      'x.conf:19: retired has no value; leave the line out for the default',
      'x.conf:20: retired again, first in line 19; allowed is one of each',
      `x.conf:22: level = "info": a value has no quotes, '\\', '#' or ';'; a comment has its own line`,
    ]);
  });

  it('keeps words that JSON knows, and names that objects have, from meaning something else', () => {
    assert.deepEqual(faults('[gateway]\ntls = true'), [
      'x.conf:2: tls = true in [gateway]: allowed is required or off',
    ]);
    for (const name of ['toString', 'hasOwnProperty']) {
      assert.deepEqual(
        parseConfig(`[peers]\n${name} = a:1`, 'x.conf').peers,
        [{ name, host: 'a', port: 1 }],
        name,
      );
      assert.equal(faults(`[${name}]\na = b`).length, 1);
    }
    for (const name of ['constructor', 'prototype', '__proto__']) {
      assert.match(faults(`[peers]\n${name} = a:1`).join(), /^x\.conf:2: '\w+' is no name/);
    }
  });

  it('wants a key with each certificate, and peers that can be told apart from anybody', () => {
    assert.deepEqual(faults('[tls]\nkey = /k\ncert = /c\nclient-key = /k\nclient-cert = /c\nallow = a,,b'), [
      'x.conf:6: allow = a,,b in [tls]: allowed are common names or DNS names of certificates, and sha256: with 64 hexadecimal digits, separated by commas',
    ]);
    assert.deepEqual(faults('[tls]\nclient-key = /k'), [
      'x.conf:2: client-key = /k in [tls]: allowed is client-key together with client-cert',
    ]);
    assert.deepEqual(faults('[tls]\ncert = /c'), [
      'x.conf:2: cert = /c in [tls]: allowed is cert together with key',
    ]);
    for (const list of ['*', '*.example', 'sha256:00', 'sha256', 'CN=b.example', ',']) {
      const { length } = faults(`[tls]\nallow = ${list}`);
      assert.equal(length, list === 'sha256' ? 0 : 1, list);
    }
  });

  it('takes or refuses any text, never anything else', () => {
    const line = fc.oneof(
      fc.string(),
      fc.constantFrom(
        '[paths]',
        '[gateway]',
        '[peers]',
        'listen = a:1',
        'tls',
        'run = /x',
        '[',
        '=',
        '[]',
        'a[] = b:1',
      ),
    );
    fc.assert(
      fc.property(fc.array(line), (lines) => {
        for (const fault of faults(lines.join('\n'))) assert.match(fault, /^x\.conf:\d+: [^\n]+$/);
      }),
    );
  });

  it('is what the example says: as shipped the defaults, and every line of it valid', async () => {
    const text = await readFile(example, 'utf8');
    assert.deepEqual(parseConfig(text, example), parseConfig('', 'x.conf'));
    const uncommented = text.replace(/^#(?=[a-z-]+ = )/gm, '');
    const defaults = parseConfig('', 'x.conf');
    assert.deepEqual(parseConfig(uncommented, example), {
      ...defaults,
      gateway: { ...defaults.gateway, advertise: { host: 'a.example', port: 10809 } },
      tls: {
        ca: '/etc/xnbd/pki/ca-cert.pem',
        crl: '/etc/xnbd/pki/ca-crl.pem',
        cert: '/etc/xnbd/pki/server-cert.pem',
        key: '/etc/xnbd/pki/server-key.pem',
        clientCert: '/etc/xnbd/pki/client-cert.pem',
        clientKey: '/etc/xnbd/pki/client-key.pem',
        allow: ['b.example', 'c.example'],
      },
      peers: [{ name: 'site-b', host: 'b.example', port: 10809 }],
      peerRates: new Map([
        ['site-b', { rate: 50e6, schedule: [{ days: [1, 5], from: 480, to: 1080, rate: 10e6 }] }],
      ]),
    });
    const keys = uncommented.match(/^[a-z-]+(?= = )/gm);
    assert.deepEqual(keys, [
      ...['images', 'exports', 'run', 'listen', 'advertise', 'tls'],
      ...['allow', 'ca', 'crl', 'cert', 'key', 'client-cert', 'client-key'],
      ...relocationRows.map(([name]) => name),
      ...['site-b', 'site-b', 'site-b', 'dbus', 'level'],
    ]);
    for (const [name, row] of relocationRows)
      assert.match(uncommented, new RegExp(`^${name} = ${row.default}$`, 'm'), 'it shows another default');
  });

  it('names each fault of a rate with its line, and a rate of a peer that it does not know', () => {
    const text = `[relocation]
rate = 200
rate-schedule = 8:00-18:00 20M
max-arriving = 0
[peers]
site-b = b:1
[peer-rate]
site-b = 10m
site-c = 10M
toString = 1M
[peer-rate-schedule]
site-c = 08:00-18:00 20M
`;
    const rates = 'a rate in bit/s with its unit k, M or G, such as 200M, or 0 for nothing, or none';
    assert.deepEqual(faults(text), [
      `x.conf:2: rate = 200 in [relocation]: allowed is ${rates}`,
      'x.conf:3: rate-schedule = 8:00-18:00 20M in [relocation]: allowed is a list of [DAY[-DAY]] HH:MM-HH:MM RATE, such as Mon-Fri 08:00-18:00 20M, separated by commas, or none',
      'x.conf:4: max-arriving = 0 in [relocation]: allowed is a number of disks from 1 to 10000, or none',
      `x.conf:8: site-b = 10m in [peer-rate]: allowed is ${rates}`,
      'x.conf:9: site-c in [peer-rate]: allowed are the names in [peers]: site-b',
      'x.conf:10: toString in [peer-rate]: allowed are the names in [peers]: site-b',
      'x.conf:12: site-c in [peer-rate-schedule]: allowed are the names in [peers]: site-b',
    ]);
  });

  it('takes a number of seconds or none for origin-timeout', () => {
    const read = (value: string) =>
      parseConfig(`[relocation]\norigin-timeout = ${value}`, 'x.conf').relocation['origin-timeout'];
    assert.equal(read('none'), null);
    assert.equal(read('86400'), 86_400);
    for (const value of ['0', '86401', 'default', '5s', '-1'])
      assert.throws(() => read(value), /allowed is a number of seconds from 1 to 86400, or none/);
  });

  it('is an error when named and missing', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'xnbd-config-'));
    try {
      const path = join(directory, 'xnbd.conf');
      await assert.rejects(loadConfig(path), {
        name: 'ConfigError',
        message: new RegExp(`${path} cannot be read \\(ENOENT\\)`),
      });
      await writeFile(path, '[log]\nlevel = error\n');
      assert.equal((await loadConfig(path)).log.level, 'error');
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe('addresses', () => {
  it('come back as they were written', () => {
    for (const text of ['a.example:1', '[::1]:10809', '[fe80::1%eth0]:65535', '10.0.0.1:80']) {
      assert.equal(formatAddress(parseAddress(text)!), text);
    }
  });
  it('are refused in every other form', () => {
    for (const text of [
      '',
      ':1',
      'a',
      'a:',
      'a:0',
      'a:65536',
      'a:1x',
      '::1:5',
      '[a.example]:1',
      '[::1]',
      'a b:1',
      'a:1:2',
    ]) {
      assert.equal(parseAddress(text), undefined, text);
    }
  });

  it('an address with a zone is for this host alone: to listen on, not to be told to others', () => {
    const { gateway } = parseConfig('[gateway]\nlisten = [fe80::1%eth0]:10809\nadvertise = a:1\n', 'f');
    assert.equal(gateway.listen.host, 'fe80::1%eth0');
    for (const text of [
      '[gateway]\nadvertise = [fe80::1%eth0]:10809\n',
      '[peers]\nb = [fe80::2%eth0]:10809\n',
    ])
      assert.throws(() => parseConfig(text, 'f'), /f:2: .*a zone \(%\) means nothing to another host/);
  });
});
