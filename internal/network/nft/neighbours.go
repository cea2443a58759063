package nft

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// dockerUser is the chain that Docker leaves to others: the first that its
// FORWARD, whose policy Docker makes drop, asks.
const dockerUser = "DOCKER-USER"

// A Blocker is another program's chain that drops what is forwarded, and has no
// rule about our bridge: a drop in any chain is final, whatever ours say.
type Blocker struct {
	Table, Chain string
	// Remedy is what the administrator can do.
	Remedy string
}

// Blockers finds them. Docker's is none once PassDocker was there.
func (t *Table) Blockers() ([]Blocker, error) {
	c := &nftables.Conn{}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("read the firewall's chains: %w", err)
	}
	var found []Blocker
	for _, ch := range chains {
		if !t.drops(ch) {
			continue
		}
		inTable := slices.DeleteFunc(slices.Clone(chains), func(o *nftables.Chain) bool { return *o.Table != *ch.Table })
		if known, err := mentioned(c, inTable, bridgePrefix); err != nil || known {
			continue // a rule that cannot be read is no reason to accuse its table
		}
		found = append(found, Blocker{ch.Table.Name, ch.Name, t.remedy(ch, inTable)})
	}
	return found, nil
}

// drops says whether a chain of others ends the way of forwarded packets that no
// rule of it takes. firewalld rejects by a rule, not by the policy.
func (t *Table) drops(ch *nftables.Chain) bool {
	if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter {
		return false
	}
	if ch.Table.Family != nftables.TableFamilyIPv4 && ch.Table.Family != nftables.TableFamilyINet {
		return false
	}
	drop := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
	return drop || ch.Table.Name == "firewalld" && ch.Name == "filter_FORWARD"
}

func (t *Table) remedy(ch *nftables.Chain, inTable []*nftables.Chain) string {
	b := bridgePrefix + "+"
	if ch.Table.Name == "firewalld" {
		return "firewall-cmd --permanent --zone=trusted --add-interface=" + b + " && firewall-cmd --reload"
	}
	if slices.ContainsFunc(inTable, func(c *nftables.Chain) bool { return strings.HasPrefix(c.Name, "ufw-") }) {
		return "ufw route allow in on " + b + "; for published ports also ufw route allow out on " + b + " to any port PORT, with the port inside the container"
	}
	where := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet"}[ch.Table.Family] + " " + ch.Table.Name + " " + ch.Name
	return fmt.Sprintf("nft insert rule %s iifname %s* accept; nft insert rule %s oifname %s* accept", where, bridgePrefix, where, bridgePrefix)
}

// bridgePrefix is how the names of our bridges begin: one rule of others is enough
// for all of them.
const bridgePrefix = "hezi"

// mentioned says whether a rule of the chains names the interface, or all whose
// names begin with it.
func mentioned(c *nftables.Conn, chains []*nftables.Chain, name string) (bool, error) {
	for _, ch := range chains {
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return false, fmt.Errorf("read the rules of the chain %s %s: %w", ch.Table.Name, ch.Name, err)
		}
		if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return names(r, name) }) {
			return true, nil
		}
	}
	return false, nil
}

// names says whether a rule compares an interface's name with one that is or, if
// it is the prefix, begins with name.
func names(r *nftables.Rule, name string) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		cmp, ok := e.(*expr.Cmp)
		if !ok {
			return false
		}
		is := string(bytes.TrimRight(cmp.Data, "\x00"))
		return is == name || name == bridgePrefix && strings.HasPrefix(is, name)
	})
}

// ownNames are what other programs must let pass: the prefix, and bridges that
// were given other names.
func (t *Table) ownNames() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []string{bridgePrefix}
	for b := range t.networks {
		if !strings.HasPrefix(b, bridgePrefix) {
			list = append(list, b)
		}
	}
	slices.Sort(list[1:])
	return list
}

// PassDocker lets what our own chains let through pass Docker's FORWARD too, by
// two rules in DOCKER-USER, which is made for that. Docker's policy protects
// Docker's containers from being routed to; ours are protected by our own chain.
// Where Docker is not, or its policy accepts, nothing happens.
func (t *Table) PassDocker() (added bool, err error) {
	if !slices.Contains(t.kept, header4) {
		return false, nil // what is Docker's of IPv4 is not ours to change
	}
	c := &nftables.Conn{}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("read the firewall's chains: %w", err)
	}
	var user *nftables.Chain
	needed := false
	for _, ch := range chains {
		if ch.Table.Name == "filter" {
			needed = needed || t.drops(ch)
			if ch.Name == dockerUser {
				user = ch
			}
		}
	}
	if user == nil || !needed {
		return false, nil
	}
	for _, name := range t.ownNames() {
		if known, err := mentioned(c, []*nftables.Chain{user}, name); err != nil {
			return false, err
		} else if known {
			continue
		}
		added = true
		match := ifname(name)
		if name == bridgePrefix {
			match = []byte(name)
		}
		for _, key := range []expr.MetaKey{expr.MetaKeyOIFNAME, expr.MetaKeyIIFNAME} {
			c.InsertRule(&nftables.Rule{Table: user.Table, Chain: user, UserData: userdata.AppendString(nil, userdata.TypeComment, "hezi"),
				Exprs: []expr.Any{&expr.Meta{Key: key, Register: regWide}, &expr.Cmp{Op: expr.CmpOpEq, Register: regWide, Data: match},
					&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}}})
		}
	}
	if !added {
		return false, nil
	}
	if err := c.Flush(); err != nil {
		return false, fmt.Errorf("let containers pass Docker's FORWARD by its chain %s: %w", dockerUser, err)
	}
	return true, nil
}

// leaveDocker takes the rules of PassDocker away. Another engine of ours that needs
// them sees that, and adds them again.
func (t *Table) leaveDocker(c *nftables.Conn) error {
	own := t.ownNames()
	chain := &nftables.Chain{Name: dockerUser, Table: &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}}
	rules, err := c.GetRules(chain.Table, chain)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || strings.Contains(err.Error(), unix.ENOENT.Error()) {
			return nil // the library does not wrap it
		}
		return err
	}
	for _, r := range rules {
		if slices.ContainsFunc(own, func(name string) bool { return names(r, name) }) {
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
	}
	return c.Flush()
}
