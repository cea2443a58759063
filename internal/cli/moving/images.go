package moving

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// takeImages takes the images that have names. Those that have none are taken with
// the containers that are made from them.
func (m *mover) takeImages(ctx context.Context) error {
	list, err := m.from.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return err
	}
	for _, i := range list.Items {
		var missing []string
		for _, name := range slices.Sorted(slices.Values(i.RepoTags)) {
			if strings.Contains(name, "<none>") {
				continue
			}
			switch there, err := m.hasImage(ctx, name, i.ID); {
			case err != nil:
				m.failed("image", name, err)
				continue
			case there:
				m.kept("image", name)
			default:
				missing = append(missing, name)
			}
			if m.images[i.ID] == "" {
				m.images[i.ID] = name
			}
		}
		if len(missing) == 0 {
			continue
		}
		if _, err := m.load(ctx, missing); err != nil {
			delete(m.images, i.ID)
			m.failed("image", strings.Join(missing, ", "), err)
			continue
		}
		m.took("image %s", strings.Join(missing, ", "))
	}
	return nil
}

// hasImage says whether Hezi has the image by this name. The two engines may give
// an image different ids, and its layers the same.
func (m *mover) hasImage(ctx context.Context, name, id string) (bool, error) {
	ours, err := m.to.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	theirs, err := m.from.ImageInspect(ctx, id)
	if err != nil {
		return false, err
	}
	if !slices.Equal(ours.RootFS.Layers, theirs.RootFS.Layers) {
		return false, errors.New("another image has this name in Hezi: hezi rmi it, or give Docker's another name with docker tag")
	}
	return true, nil
}

// load sends images from one engine to the other and says what the ids of those
// without a name are there.
func (m *mover) load(ctx context.Context, refs []string) (ids []string, err error) {
	if m.dry {
		return refs, nil
	}
	saved, err := m.from.ImageSave(ctx, refs)
	if err != nil {
		return nil, err
	}
	archive := &source{ReadCloser: saved}
	defer archive.Close()
	defer func() {
		if err != nil && archive.cut.Load() {
			err = m.why(ctx, refs, err)
		}
	}()
	answer, err := m.to.ImageLoad(ctx, archive, client.ImageLoadWithQuiet(true))
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	for in := json.NewDecoder(answer); ; {
		var line struct{ Stream, Error string }
		if err := in.Decode(&line); errors.Is(err, io.EOF) {
			return ids, nil
		} else if err != nil {
			return nil, err
		}
		if line.Error != "" {
			return nil, errors.New(line.Error)
		}
		if id, ok := strings.CutPrefix(line.Stream, "Loaded image ID: "); ok {
			ids = append(ids, strings.TrimSpace(id))
		}
	}
}

func hex(id string) string { return strings.TrimPrefix(id, "sha256:") }

// image is what an image of Docker's is called in Hezi; name is how a container of
// Docker's calls it.
func (m *mover) image(ctx context.Context, id, name string) (string, error) {
	if ref := m.images[id]; ref != "" {
		if strings.Contains(name, "@") { // archives have no digests of registries
			return ref, nil
		}
		i, err := m.from.ImageInspect(ctx, name)
		if err == nil && i.ID == id && !strings.HasPrefix(hex(id), hex(name)) { // it is still called so, and not by its id
			return name, nil
		}
		return ref, nil
	}
	ids, err := m.load(ctx, []string{id})
	if err != nil {
		return "", err
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("the image %s has no name: give it one with docker tag", id)
	}
	m.images[id] = ids[0]
	return ids[0], nil
}
