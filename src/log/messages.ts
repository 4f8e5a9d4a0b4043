/**
 * The messages that have an identity in the journal (MESSAGE_ID): what each means, and what is to be done.
 * This table is the only place that lists them: a line of the log names its message (`log.info(text, { id:
 * ... })`), and packaging/journal/xnbd.catalog, which `journalctl -x` shows, follows from it (`npm run
 * docs`).
 *
 * An identity is for ever: programs match on it. One that is given up is not given to another.
 */

interface MessageRow {
  /** 128 bits, hexadecimal. */
  readonly id: string;
  /** What has happened. */
  readonly subject: string;
  /** What it means and what is to be done; @FIELD@ is a field of the entry. */
  readonly help: string;
}

export const messages = {
  'export-serves': {
    id: '04dddf3b967050d08ff73638770ecfb6',
    subject: 'A disk is served',
    help: 'The process of disk @XNBD_EXPORT@ is up and takes clients. Nothing is to be done.',
  },
  'export-stopped': {
    id: '533cfc7b3ced5fb180b93f8e9514247f',
    subject: 'The process of a disk has ended in an orderly way',
    help: 'What disk @XNBD_EXPORT@ had accepted is in its image. It is started again when a guest or a move needs it.',
  },
  'export-flush-failed': {
    id: 'ac11ce6dcfc7517ba62ea08ecddd63b6',
    subject: 'The last flush of a disk has failed',
    help: 'The process of disk @XNBD_EXPORT@ has ended, and its storage did not say that all is written. What its guest wrote last may be lost. Look at the storage (dmesg), and check the file systems of the guest.',
  },
  'export-not-started': {
    id: '5c8adcf5f0ba5b6588090870c46ec681',
    subject: 'A disk cannot be served',
    help: 'The process of disk @XNBD_EXPORT@ has said why and ended. It is tried again, with growing pauses, while a guest or a move needs it: put right what it names.',
  },
  'export-fault': {
    id: 'a24ec1a173e1527da01d857d283fdda7',
    subject: 'A fault of the program has ended the process of a disk',
    help: 'systemd starts it again at once; what was acknowledged is kept. Please report the text of this entry.',
  },
  'export-up': {
    id: 'a965e0917c735c3b9bbc0bba700832e4',
    subject: 'The daemon has taken up a disk',
    help: 'xnbdd and the process of disk @XNBD_EXPORT@ are connected.',
  },
  'export-gone': {
    id: '062074deec7d5e1c9d7dbefc6486ee1c',
    subject: 'The process of a disk has ended',
    help: 'Nobody told it to, as far as xnbdd knows. It is started again if disk @XNBD_EXPORT@ is needed; its guest waits, or is stopped and goes on by itself. The entries before tell why: journalctl XNBD_EXPORT=@XNBD_EXPORT@',
  },
  'export-hangs': {
    id: 'ad7e8804a7ff5b7989e4b4ae6943e572',
    subject: 'The process of a disk does not answer',
    help: 'It may wait for storage that does not answer (dmesg). A second process is never started on its image. One that says nothing for a minute is replaced by systemd.',
  },
  'export-killed': {
    id: '59656fdbc14d5432835941409046eaf3',
    subject: 'The process of a disk is killed',
    help: 'It was told to end and did not, or it was still starting for an arrival that was given up. What it had acknowledged is kept.',
  },
  'export-fails': {
    id: 'a854997ce8d75f41a04b313015f5b4b4',
    subject: 'The process of a disk does not start',
    help: 'It is tried again with growing pauses (at most 15 s). Put right what the entry names; the guests of disk @XNBD_EXPORT@ have no disk until then.',
  },
  'export-unused': {
    id: 'd932971d7fd35e54b6eac6663610d3b5',
    subject: 'The process of a disk ends, because no guest uses it',
    help: 'Nothing is to be done. It is started when its guest is.',
  },
  'disk-missing': {
    id: 'da334e0e2ee359b8bf6b0fbce26be8d7',
    subject: 'A running guest has no disk',
    help: 'Guest @DOMAIN_NAME@ runs, and its disk @XNBD_EXPORT@ cannot be served. Put right what the entry names.',
  },
  'guest-starts': {
    id: '1083627424605b04bb384516a1522f4b',
    subject: 'A guest starts, and its disks are served',
    help: 'Nothing is to be done.',
  },
  'guest-resumed': {
    id: '92b49758db5659669d24ba760bcfcfd9',
    subject: 'A guest that was stopped goes on',
    help: 'It had been stopped by an I/O error while its disk was away, and the disk is back.',
  },
  'guest-stays-paused': {
    id: 'bb2895d39e0c55d192a206a4c4b3dce1',
    subject: 'A guest stays paused',
    help: 'Its disk is back, and something else keeps it from going on. Put that right, then: virsh resume @DOMAIN_NAME@',
  },
  'end-not-told': {
    id: 'cfb9359b789a50f5b81043b797b8a87f',
    subject: 'A guest has ended and no hook told',
    help: 'Its disks are let go. If it happens again, see that libvirt runs the hooks of xNBD: restart it once after an installation, because it looks for hooks when it starts.',
  },
  'hook-refused': {
    id: '0fcfcf2d70a75c0e8b0b9bec695fcc20',
    subject: 'A hook of libvirt was refused',
    help: 'libvirt does not start or take in guest @DOMAIN_NAME@, and virsh shows the reason that stands in this entry.',
  },
  'move-arriving': {
    id: '26de887367ed5245969faa364c2544dd',
    subject: 'A guest is about to arrive',
    help: 'Disk @XNBD_EXPORT@ stands by: it reads through to its origin and keeps nothing until the guest runs here.',
  },
  'move-arrived': {
    id: '9b908808139352289e4e1df161075f64',
    subject: 'A guest has arrived, and its disks follow',
    help: 'Blocks that it asks for come first, all others in the background. `xnbdctl watch` shows how far that is.',
  },
  'move-failed': {
    id: '14dad52eabf051cba9d24e6504fc0112',
    subject: 'A move is given up',
    help: 'The guest runs on at the source with its disks; nothing is left of them here. The entry tells why.',
  },
  'disk-complete': {
    id: 'db39d6ae2cee5ec2bd1a4d83ca7e3339',
    subject: 'A disk is here completely',
    help: 'Every block of disk @XNBD_EXPORT@ is on this host; the origin is told to retire its copy.',
  },
  'disk-left': {
    id: 'f14872dac2e45a60a70936e19023325e',
    subject: 'A disk has moved away completely',
    help: 'Its old image stays, or is deleted, as `retired` in xnbd.conf says. A kept one: xnbdctl delete @XNBD_EXPORT@',
  },
  'state-changed': {
    id: '9d55da81be5d5975abb38e114a72f29d',
    subject: 'A disk is in another state',
    help: 'serving: at rest. lent, fenced: it moves away. standby, relocating: it arrives. retired: it is elsewhere. reclaimed: what was here is void. docs/architecture.md has the life of a disk.',
  },
  takeover: {
    id: 'c3fd1c4d4ae551f18ed2031d46605412',
    subject: 'This host takes a disk over',
    help: 'The origin is asked to refuse every write from now on; blocks are kept here as soon as it does.',
  },
  relocating: {
    id: '5045b34720945e419a782bce80952784',
    subject: 'A disk belongs to this host and is not complete',
    help: 'Its guest may do everything; reads of blocks that are still at the origin wait for it. Do not delete the disk at the origin.',
  },
  'origin-let-go': {
    id: 'dd36b5ce177254fdb6829fa60dae0ee4',
    subject: 'A disk needs its origin no more',
    help: 'The origin has been told that every block is here.',
  },
  fenced: {
    id: '73c2b6bf3da35755b2fbba33613b8a43',
    subject: 'Another host has taken a disk over',
    help: 'Disk @XNBD_EXPORT@ refuses every write here from now on and serves that host alone, until that has every block. If that host is lost for good: xnbdctl reclaim @XNBD_EXPORT@',
  },
  'not-fenced': {
    id: '5435c37c5a5e5aa7bf0368d5217f09f9',
    subject: 'A disk could not be given to another host',
    help: 'It serves on here; the other host tries again or gives the move up.',
  },
  'given-back': {
    id: 'f945c9aa1bc6552690693dc15b26e656',
    subject: 'A disk was given back',
    help: 'The move was given up before a write at the other host: disk @XNBD_EXPORT@ serves here as before.',
  },
  reclaimed: {
    id: 'f8514c33caf053a8a13897f22d3440c2',
    subject: 'A disk was taken back from a host that was lost',
    help: 'What was written there is void. The other host serves it no more once it hears of that.',
  },
  'lease-void': {
    id: '77b4310e82b952cf8ad79a3d8deca23b',
    subject: 'What is on this host of a disk is void',
    help: 'Its origin was reclaimed, or its guest started anew there. If nobody wants what its guest wrote here last: xnbdctl delete @XNBD_EXPORT@ --force',
  },
  'arrival-alarm': {
    id: '5f0c1d6fd0b84e0e8d5a3b1f6a1c9e27',
    subject: 'A disk does not come as it should',
    help: 'Nothing comes and no reason is known, or the time left has doubled. Look at the line to the origin, at the storage of both hosts, and at what else uses them: xnbdctl status @XNBD_EXPORT@',
  },
  'arrival-well': {
    id: 'b3a7c2e91f4d4c5fa8e06d7b2c915d34',
    subject: 'A disk comes as it should again',
    help: 'Nothing is to be done.',
  },
  'share-unknown': {
    id: '8e4b6a0d3c72459fb1d5f09e7a26c8b1',
    subject: 'A disk is copied beside the rates that are set',
    help: 'The process of disk @XNBD_EXPORT@ is of a release that knows no limits. xnbdctl upgrade @XNBD_EXPORT@ has the new one take it over.',
  },
  'origin-unreachable': {
    id: '7212493a1b895ad695ec04024802d523',
    subject: 'The origin of a disk is unreachable',
    help: 'Guests work on with the blocks that are here; what needs the origin waits, or gets an I/O error after `origin-timeout`. Look at the network, at xnbd-gateway on the other host, and at its firewall (port 10809).',
  },
  'origin-reachable': {
    id: '667f4e0cb4265309957cfd1d6e14f22f',
    subject: 'The origin of a disk is reachable again',
    help: 'What waited for it is sent again.',
  },
  'request-timeout': {
    id: '9d75795a5882580695a6cea92a10d371',
    subject: 'A request has waited for the origin too long',
    help: 'Its guest gets an I/O error, as `origin-timeout` says. `xnbdctl set @XNBD_EXPORT@ origin-timeout none` lets it wait.',
  },
  'blocks-unreadable': {
    id: 'bab2f661948c5ae49a635d6ff66e89b5',
    subject: 'Blocks of a disk cannot be copied',
    help: 'The origin cannot read them, or the image here not take them: they stay absent, are never read as zeros, and keep the disk from being complete. `xnbdctl status @XNBD_EXPORT@` has the ranges. A write of the guest puts them right.',
  },
  'no-room': {
    id: '3c5b4d1d0cac5a4d8e4c62a4060e056a',
    subject: 'The background copy pauses, because there is no room',
    help: 'The guest works on. Make room on the file system of the images; the copy goes on by itself.',
  },
  'room-again': {
    id: '8a4e7509aaa2503284c51398a8705fae',
    subject: 'The background copy goes on',
    help: 'There is room again.',
  },
  'storage-error': {
    id: 'd4bcb625a24451b1a5aa17dc931cf059',
    subject: 'The storage of a disk fails',
    help: 'A read, write or sync of the image has failed. After a failed sync what it covered counts as lost. Look at the storage (dmesg, free space).',
  },
  'compared-different': {
    id: '17383c13e4585611ab3d8a89429283dc',
    subject: 'A disk differs from its origin',
    help: 'The origin is kept. See `xnbdctl status @XNBD_EXPORT@`; xnbdctl verify @XNBD_EXPORT@ compares again, and with --accept the disk stays as it is.',
  },
  'peer-arrives': {
    id: '9b6c0bcb456b5701a74b3ce241ee506a',
    subject: 'Another host is at a disk',
    help: '@XNBD_PEER@ reads disk @XNBD_EXPORT@ through the gateway.',
  },
  'peer-leaves': {
    id: '16679ef576f45951984980097feecf20',
    subject: 'Another host has left a disk',
    help: 'Its connection to disk @XNBD_EXPORT@ has ended.',
  },
  'gateway-listens': {
    id: '100a30cca7095085b09420c44c9891e0',
    subject: 'The gateway listens',
    help: 'Other hosts can fetch disks from this one.',
  },
  'gateway-waits': {
    id: 'f3e6f60532ce545c99ee4653c1d3a34a',
    subject: 'The gateway lets nobody in',
    help: 'Its certificate, its key or `allow` in xnbd.conf is missing or wrong; it is looked for until it is right. `xnbdctl pki check` tells what is wrong.',
  },
  'peer-refused': {
    id: '52d673a1c9215b1faaf471c869cac6bb',
    subject: 'A visitor of the gateway is refused',
    help: 'It has no certificate that `allow` in xnbd.conf names, does not speak NBD with TLS, or names no disk. If it is a host of yours: xnbdctl pki check, on both.',
  },
  'peer-floods': {
    id: '481d28e9db435366ad56a63f75c9e020',
    subject: 'A visitor of the gateway comes too often',
    help: 'It is turned away until it comes less often. If it is none of your hosts, close port 10809 for it.',
  },
  'certificate-renewed': {
    id: '2d1c5c6804ce54cf8e4c60b740e2a3c2',
    subject: 'A certificate has been renewed',
    help: 'New connections use it.',
  },
  'certificate-faulty': {
    id: '0e8174fbd7675aa9a9b429edba4daac2',
    subject: 'A certificate that was replaced is of no use',
    help: 'The one before is used on, until it is put right: xnbdctl pki check',
  },
  'daemon-ready': {
    id: '9c43dd7d4c5552c992316e6e54f9620c',
    subject: 'The daemon answers hooks',
    help: 'Guests with xNBD disks can be started and migrated.',
  },
  'daemon-ended': {
    id: '3098c6c38d575f29b11d03842d45b22e',
    subject: 'The daemon has ended',
    help: 'The disks of guests are served on. No guest with xNBD disks can be started or migrated until it is back.',
  },
  'bus-gone': {
    id: 'a28ccc5517c25a6bae7358d676cacb73',
    subject: 'D-Bus has gone away',
    help: 'xnbdd connects again by itself.',
  },
} as const satisfies Record<string, MessageRow>;

export type MessageName = keyof typeof messages;
