package dockerroot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"
	bolt "go.etcd.io/bbolt"
)

const (
	networksFile   = "network/files/local-kv.db"
	networksPrefix = "docker/network/v1.0/network/"
	indexBytes     = 8 // before each value
)

// keptNetwork is a network as libnetwork keeps it. Lists are JSON in strings.
type keptNetwork struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Created     time.Time         `json:"created"`
	Driver      string            `json:"networkType"`
	Scope       string            `json:"scope"`
	IPv4        *bool             `json:"enableIPv4"` // since Docker 28
	IPv6        bool              `json:"enableIPv6"`
	Internal    bool              `json:"internal"`
	Attachable  bool              `json:"attachable"`
	Ingress     bool              `json:"ingress"`
	ConfigOnly  bool              `json:"configOnly"`
	ConfigFrom  string            `json:"configFrom"`
	InDelete    bool              `json:"inDelete"`
	Labels      map[string]string `json:"labels"`
	IPAM        string            `json:"ipamType"`
	IPAMOptions map[string]string `json:"ipamOptions"`
	Config4     string            `json:"ipamV4Config"`
	Config6     string            `json:"ipamV6Config"`
	Info4       string            `json:"ipamV4Info"`
	Info6       string            `json:"ipamV6Info"`
	Generic     struct {
		Options map[string]any `json:"com.docker.network.generic"`
	} `json:"generic"`
}

// Networks lists the networks of this machine, and says what is wrong with those that
// it leaves out.
func (r *Root) Networks() (out []network.Inspect, warnings []string, _ error) {
	db, err := openBolt(r.at, networksFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the networks of Docker in %s/%s: %w", r.path, networksFile, err)
	}
	defer db.Close()
	err = view(r.at, networksFile, db, func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("libnetwork"))
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Seek([]byte(networksPrefix)); bytes.HasPrefix(k, []byte(networksPrefix)); k, v = c.Next() {
			n, there, err := readNetwork(v)
			switch {
			case err != nil:
				name := n.Name
				if name == "" {
					name = strings.Trim(string(k[len(networksPrefix):]), "/")
				}
				warnings = append(warnings, fmt.Sprintf("network %q: not taken: what %s/%s has of it is damaged: %v", name, r.path, networksFile, err))
			case there:
				out = append(out, n)
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b network.Inspect) int { return strings.Compare(a.Name, b.Name) })
	return out, warnings, err
}

// readNetwork reads a network, which is not there if Docker was removing it.
func readNetwork(value []byte) (_ network.Inspect, there bool, err error) {
	if len(value) < indexBytes {
		return network.Inspect{}, false, errors.New("it is too short")
	}
	var kept keptNetwork
	if err := json.Unmarshal(value[indexBytes:], &kept); err != nil || kept.InDelete {
		return network.Inspect{}, false, err
	}
	n, err := kept.network()
	return n, true, err
}

func (k *keptNetwork) network() (network.Inspect, error) {
	out := network.Inspect{}
	out.Network = network.Network{
		Name: k.Name, ID: k.ID, Created: k.Created, Scope: k.Scope, Driver: k.Driver, EnableIPv4: k.IPv4 != nil && *k.IPv4, EnableIPv6: k.IPv6,
		Internal: k.Internal, Attachable: k.Attachable, Ingress: k.Ingress, ConfigOnly: k.ConfigOnly,
		ConfigFrom: network.ConfigReference{Network: k.ConfigFrom}, Labels: k.Labels, Options: map[string]string{},
	}
	for name, v := range k.Generic.Options {
		text, ok := v.(string)
		if !ok {
			return out, fmt.Errorf("its option %s is %v, which is no text", name, v)
		}
		out.Options[name] = text
	}
	out.IPAM = network.IPAM{Driver: k.IPAM, Options: k.IPAMOptions}
	for _, family := range [][2]string{{k.Config4, k.Info4}, {k.Config6, k.Info6}} {
		list, err := subnets(family[0], family[1])
		if err != nil {
			return out, err
		}
		out.IPAM.Config = append(out.IPAM.Config, list...)
	}
	return out, nil
}

// subnets are those that were asked for or, if none was, those that Docker chose.
func subnets(config, info string) (out []network.IPAMConfig, err error) {
	var asked []struct {
		PreferredPool, SubPool, Gateway string
		AuxAddresses                    map[string]string
	}
	if config != "" {
		if err := json.Unmarshal([]byte(config), &asked); err != nil {
			return nil, fmt.Errorf("its addresses: %w", err)
		}
	}
	for _, a := range asked {
		if a.PreferredPool == "" {
			continue
		}
		c := network.IPAMConfig{}
		if c.Subnet, err = netip.ParsePrefix(a.PreferredPool); err != nil {
			return nil, fmt.Errorf("its subnet: %w", err)
		}
		if a.SubPool != "" {
			if c.IPRange, err = netip.ParsePrefix(a.SubPool); err != nil {
				return nil, fmt.Errorf("its range of addresses: %w", err)
			}
		}
		if c.Gateway, err = address(a.Gateway); err != nil {
			return nil, err
		}
		for name, text := range a.AuxAddresses {
			if c.AuxAddress == nil {
				c.AuxAddress = map[string]netip.Addr{}
			}
			if c.AuxAddress[name], err = address(text); err != nil {
				return nil, err
			}
		}
		out = append(out, c)
	}
	if len(out) > 0 || info == "" {
		return out, nil
	}
	var chosen []struct{ IPAMData string }
	if err := json.Unmarshal([]byte(info), &chosen); err != nil {
		return nil, fmt.Errorf("its addresses: %w", err)
	}
	for _, i := range chosen {
		var data struct{ Pool, Gateway string }
		if err := json.Unmarshal([]byte(i.IPAMData), &data); err != nil {
			return nil, fmt.Errorf("its addresses: %w", err)
		}
		c := network.IPAMConfig{}
		if c.Subnet, err = netip.ParsePrefix(data.Pool); err != nil {
			return nil, fmt.Errorf("its subnet: %w", err)
		}
		if c.Gateway, err = address(data.Gateway); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// address reads one that may be missing or have the length of its network.
func address(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, fmt.Errorf("its address: %w", err)
	}
	return a, nil
}
