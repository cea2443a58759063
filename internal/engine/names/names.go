// Package names is the index of containers by their names and ids.
package names

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// Index finds containers: by name, by id, and by the beginning of an id.
type Index struct {
	pattern *regexp.Regexp

	mu     sync.RWMutex // guards what follows
	byName map[string]string
	ids    map[string]string // id to name
}

// New makes an empty index.
func New() *Index {
	return &Index{pattern: regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$`), byName: map[string]string{}, ids: map[string]string{}}
}

// Reserve gives id a name; "" chooses a random one.
func (n *Index) Reserve(id, name string) (string, error) {
	if name != "" && !n.pattern.MatchString(name) {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if name = strings.TrimPrefix(name, "/"); name == "" {
		name = n.randomLocked()
	}
	if other, taken := n.byName[name]; taken {
		return "", errdefs.ErrConflict.WithMessage(fmt.Sprintf("Conflict. The container name \"/%s\" is already in use by container %q. "+
			"You have to remove (or rename) that container to be able to reuse that name.", name, other))
	}
	if old, ok := n.ids[id]; ok {
		delete(n.byName, old)
	}
	n.byName[name], n.ids[id] = id, name
	return name, nil
}

func (n *Index) randomLocked() string {
	adjectives := strings.Fields("amber brave calm clever daring eager fancy gentle happy jolly keen lively merry noble proud quiet rapid silent tender vivid warm wise young zealous")
	surnames := strings.Fields("bohr chen curie darwin euler fermi gauss hopper huygens kepler lamarr li lovelace maxwell meitner newton noether planck shen tesla tu turing wu yang zhang zu")
	for {
		name := adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))]
		if _, taken := n.byName[name]; !taken {
			return name
		}
		name = fmt.Sprintf("%s%d", name, rand.IntN(1_000_000))
		if _, taken := n.byName[name]; !taken {
			return name
		}
	}
}

// Release forgets a container.
func (n *Index) Release(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.byName, n.ids[id])
	delete(n.ids, id)
}

// Resolve finds a container's id by its id, name or unique prefix.
func (n *Index) Resolve(ref string) (string, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if _, ok := n.ids[ref]; ok {
		return ref, nil
	}
	if id, ok := n.byName[strings.TrimPrefix(ref, "/")]; ok {
		return id, nil
	}
	found := ""
	for id := range n.ids {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != "" {
			return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("multiple IDs found with provided prefix: %s: write more of the id", ref))
		}
		found = id
	}
	if found == "" {
		return "", errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	return found, nil
}
