/** A domain as a test thinks of it, and as libvirt would show it. */
export interface TestDomain {
  name: string;
  uuid: string;
  disks: string[];
  /** How its disks may be shared with other domains; left out: not at all. */
  sharing?: 'readonly' | 'shareable';
  /** The element that the source's daemon wrote. */
  origin?: string;
}

/** A domain as libvirt shows it to a hook. Every disk is on `run`. */
export function domainXml(run: string, { name, uuid, disks, sharing, origin = '' }: TestDomain): string {
  const elements = disks.map(
    (disk, index) => `    <disk type='network' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source protocol='nbd' name='${disk}'>
        <host transport='unix' socket='${run}/${disk}.sock'/>
      </source>
      <target dev='vd${'abcdefgh'[index]}' bus='virtio'/>${sharing === undefined ? '' : `<${sharing}/>`}
    </disk>
`,
  );
  return `<domain type='qemu' id='1'>
  <name>${name}</name>
  <uuid>${uuid}</uuid>
  <metadata>${origin}</metadata>
  <memory unit='KiB'>131072</memory>
  <devices>
${elements.join('')}  </devices>
</domain>
`;
}
