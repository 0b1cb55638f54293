-- Rookery's part of /etc/prosody/prosody.cfg.lua (Prosody 0.12). Put it at the end of that file, choose a secret, and
-- restart: systemctl restart prosody (a reload does not start a new component). Prosody listens for components on 127.0.0.1:5347 unless component_ports says otherwise.
-- scripts/test starts a Prosody with exactly these lines, names and secret replaced.

Component "social.example.org"
	component_secret = "change-me"

-- Worth knowing:
-- * Users of other servers reach Rookery through server-to-server connections, as they reach your users: the name
--   social.example.org needs a DNS entry and a certificate that covers it.
-- * A stanza of more than 512 KiB closes Prosody's connection to a component. Rookery keeps below that by itself; leave
--   component_stanza_size_limit alone unless you raise it.
-- * Only one connection per component name is let in. If Rookery says "conflict" at its start, another one is running.
-- * Two small stanzas that follow one another to the same place may be 40 ms apart: Prosody's sockets wait for the first
--   to be acknowledged (Nagle). network_settings = { nagle = false } ends that. It is a global setting: above the first
--   VirtualHost.
