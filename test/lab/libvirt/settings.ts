import { randomUUID } from 'node:crypto';

/** libvirtd.conf of a lab host: TCP without authentication, and a uuid of its own, or libvirt refuses to migrate between the two. */
export const libvirtdConf = (): string => `listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "${randomUUID()}"
log_outputs = "3:stderr"
keepalive_interval = 2
keepalive_count = 5
`;

export const qemuConf = (): string => `security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
keepalive_interval = 2
keepalive_count = 5
`;

/** A bus of type system on which everybody may do everything, unless a file in /run/dbus/policy.d says otherwise. */
export const busConf =
  (): string => `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow eavesdrop="true"/>
  </policy>
  <includedir>/run/dbus/policy.d</includedir>
</busconfig>
`;

/** /etc/hosts with every host of the lab. */
export const hostsFile = (addresses: Readonly<Record<string, string>>): string =>
  [
    '127.0.0.1 localhost',
    ...Object.entries(addresses).map(([name, address]) => `${address} ${name}`),
    '',
  ].join('\n');
