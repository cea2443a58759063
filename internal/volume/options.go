package volume

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/moby/sys/mount"
)

// checkOptions refuses options that the local driver does not have, in Docker's words.
func checkOptions(o map[string]string) error {
	for key := range o {
		switch key {
		case "type", "o", "device", "size":
		default:
			return fmt.Errorf("invalid option: %q: the options of the local driver are type, o, device and size", key)
		}
	}
	for _, need := range [][2]string{{"device", "type"}, {"type", "device"}, {"o", "device"}, {"o", "type"}} {
		if _, ok := o[need[0]]; !ok {
			continue
		}
		if _, ok := o[need[1]]; !ok {
			return fmt.Errorf("missing required option: %q", need[1])
		}
	}
	if o["type"] == "cifs" && o["device"] != "" {
		u, err := url.Parse(o["device"])
		if err != nil {
			return fmt.Errorf("error parsing mount device url: %w", err)
		}
		if u.Port() != "" {
			return errors.New("port not allowed in CIFS device URL, include 'port' in 'o='")
		}
	}
	n, err := size(o)
	if err == nil && n > 0 && o["device"] != "" {
		err = errors.New("quota size requested but no quota support: what is mounted from elsewhere is limited there; for a tmpfs write o=size=")
	}
	return err
}

// source is what is mounted, and how: as it was asked for, with addresses for the
// names of servers, which the kernel does not look up.
func source(o map[string]string, lookUp func(network, host string) (*net.IPAddr, error)) (device, options string, err error) {
	device, options = o["device"], o["o"]
	if device == "" {
		return "", "", errors.New("missing device in volume options")
	}
	address := func(host string) (string, error) {
		a, err := lookUp("ip", host)
		if err != nil {
			return "", fmt.Errorf("error resolving passed in network volume address: %w", err)
		}
		return a.String(), nil
	}
	switch o["type"] {
	case "nfs", "nfs4", "cifs":
		if host := option(options, "addr"); host != "" {
			if net.ParseIP(host) != nil {
				return device, options, nil
			}
			a, err := address(host)
			return device, strings.Replace(options, "addr="+host, "addr="+a, 1), err
		}
	}
	if o["type"] != "cifs" {
		return device, options, nil
	}
	u, err := url.Parse(device)
	if err != nil {
		return "", "", fmt.Errorf("error parsing mount device url: %w", err)
	}
	if u.Host == "" || net.ParseIP(u.Host) != nil {
		return device, options, nil
	}
	if u.Host, err = address(u.Host); err != nil {
		return "", "", err
	}
	if device, err = url.QueryUnescape(u.String()); err != nil {
		return "", "", fmt.Errorf("failed to unescape device URL: %q", u)
	}
	return device, options, nil
}

// option is a value in a list of options as mount(8) has them.
func option(list, key string) string {
	for o := range strings.SplitSeq(list, ",") {
		if v, ok := strings.CutPrefix(o, key+"="); ok {
			return v
		}
	}
	return ""
}

// attach mounts what a volume's options name at its folder.
func attach(r *record) error {
	device, options := "", ""
	var err error
	if r.Limit == byFile {
		err = mountDisk(r.Mountpoint)
	} else if device, options, err = source(r.Options, net.ResolveIPAddr); err == nil {
		err = mount.Mount(device, r.Mountpoint, r.Options["type"], options)
	}
	if err == nil {
		return nil
	}
	text := err.Error()
	if password := option(options, "password"); password != "" {
		text = strings.ReplaceAll(text, "password="+password, "password=********")
	}
	return fmt.Errorf("failed to mount local volume: %s", text)
}
