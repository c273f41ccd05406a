// Reads a ledger that MailWatch wrote (ours.json), checks it with Go's own packages for transparency logs, and
// writes what they make of it and of trees of their own as vectors (go.json):
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go run crosscheck.go < ours.json > go.json
//
// with Debian's golang-go and golang-golang-x-mod-dev. The tests read go.json and need no Go.
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type ledger struct {
	Key     string   `json:"key"`
	Notes   []string `json:"notes"`
	Entries []string `json:"entries"`
}

type kept []tlog.Hash

func (k *kept) add(n int, data string) {
	hashes, err := tlog.StoredHashes(int64(n), []byte(data), k.reader())
	fail(err)
	*k = append(*k, hashes...)
}

func (k *kept) reader() tlog.HashReaderFunc {
	return func(indexes []int64) ([]tlog.Hash, error) {
		made := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			made[i] = (*k)[index]
		}
		return made, nil
	}
}

// subtrees are the perfect subtrees of the first n leaves, largest first.
func (k *kept) subtrees(n int64) []string {
	made := []string{}
	at := int64(0)
	for level := 62; level >= 0; level-- {
		if n&(1<<level) != 0 {
			made = append(made, (*k)[tlog.StoredHashIndex(level, at>>level)].String())
			at += 1 << level
		}
	}
	return made
}

func fail(err error) {
	if err != nil {
		panic(err)
	}
}

// opened tells whether the note is signed by the key and its root is that of the first entries.
func opened(text string, verifier note.Verifier, k *kept) (int64, bool) {
	read, err := note.Open([]byte(text), note.VerifierList(verifier))
	if err != nil {
		return 0, false
	}
	lines := strings.Split(read.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return 0, false
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return 0, false
	}
	root, err := tlog.TreeHash(size, k.reader())
	fail(err)
	return size, root.String() == lines[2]
}

func main() {
	raw, err := io.ReadAll(os.Stdin)
	fail(err)
	var ours ledger
	fail(json.Unmarshal(raw, &ours))
	verifier, err := note.NewVerifier(ours.Key)
	fail(err)
	var k kept
	for n, entry := range ours.Entries {
		k.add(n, entry)
	}
	total := int64(len(ours.Entries))
	roots := map[int64]tlog.Hash{}
	confirmed := []map[string]interface{}{}
	for _, text := range ours.Notes {
		size, good := opened(text, verifier, &k)
		root, err := tlog.TreeHash(size, k.reader())
		fail(err)
		roots[size] = root
		refused := 0
		for bit := 0; bit < 8*len(text); bit++ {
			bent := []byte(text)
			bent[bit/8] ^= 1 << (bit % 8)
			if _, still := opened(string(bent), verifier, &k); !still {
				refused++
			}
		}
		confirmed = append(confirmed, map[string]interface{}{
			"size": size, "good": good, "root": root.String(), "bits": 8 * len(text), "refused": refused,
		})
	}
	// The last root holds each entry, and each earlier root is a beginning of it.
	last := roots[total]
	held, begun := 0, 0
	for n, entry := range ours.Entries {
		proof, err := tlog.ProveRecord(total, int64(n), k.reader())
		fail(err)
		fail(tlog.CheckRecord(proof, total, last, int64(n), tlog.RecordHash([]byte(entry))))
		held++
	}
	for size, root := range roots {
		proof, err := tlog.ProveTree(total, size, k.reader())
		fail(err)
		fail(tlog.CheckTree(proof, total, last, size, root))
		begun++
	}
	// Trees of Go's own: the leaf n is the text "entry n".
	var own kept
	trees := []map[string]interface{}{}
	for n := 0; n < 1024; n++ {
		own.add(n, fmt.Sprintf("entry %d", n))
		size := int64(n + 1)
		if size <= 33 || size%255 < 3 || size == 1000 || size == 1024 {
			root, err := tlog.TreeHash(size, own.reader())
			fail(err)
			trees = append(trees, map[string]interface{}{"size": size, "root": root.String(), "subtrees": own.subtrees(size)})
		}
	}
	// Notes of Go's own, of keys whose secret is 32 times the same byte.
	notes := []map[string]string{}
	for _, secret := range []byte{1, 2, 255} {
		for _, name := range []string{"example.org/log", "mailwatch/0123456789abcdef"} {
			signer, vkey := key(name, secret)
			text := fmt.Sprintf("%s\n%d\n%s\n", name, secret, last.String())
			signed, err := note.Sign(&note.Note{Text: text}, signer)
			fail(err)
			notes = append(notes, map[string]string{
				"name": name, "secret": fmt.Sprintf("%064x", repeat(secret)), "key": vkey, "text": text, "note": string(signed),
			})
		}
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", " ")
	fail(out.Encode(map[string]interface{}{
		"made_by": runtime.Version() + ", golang.org/x/mod/sumdb/{note,tlog} of Debian's golang-golang-x-mod-dev 0.7.0-1",
		"ours_sha256": fmt.Sprintf("%x", sha256.Sum256(raw)),
		"ours":        map[string]interface{}{"notes": confirmed, "entries_proven": held, "beginnings_proven": begun},
		"trees":       trees,
		"notes":       notes,
	}))
}

func repeat(b byte) []byte {
	return []byte(strings.Repeat(string([]byte{b}), 32))
}

func key(name string, secret byte) (note.Signer, string) {
	// note.GenerateKey reads 32 bytes of secret.
	skey, vkey, err := note.GenerateKey(strings.NewReader(string(repeat(secret))), name)
	fail(err)
	signer, err := note.NewSigner(skey)
	fail(err)
	// Ed25519 keys of Go begin with one byte of algorithm.
	parts := strings.Split(skey, "+")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(parts[4:], "+"))
	fail(err)
	if string(raw[1:]) != string(repeat(secret)) {
		panic("the secret is another one")
	}
	return signer, vkey
}
