// Package redact takes declared secrets out of text, as a stream: bytes in, bytes out, no clock and no file.
//
// It finds a secret as it is and in the forms programs give it: base64 in both alphabets and at every alignment (also
// wrapped as the base64 tool does), hexadecimal, percent-encoding, JSON strings (also JSON inside JSON), shell quoting,
// HTML, and each line of a secret of several lines. Every byte that belongs to a form found is replaced; the mark that
// takes its place, "[redacted:NAME]", names the secret.
//
// The search is an Aho–Corasick automaton: the time is linear in the text, whatever the secrets and the text are, and a
// secret is found across any split into writes. Only bytes that may still be the start of a secret are held back.
//
// What it cannot do: a form that is not in the list (a cipher, a reversal, single characters on separate lines), the rarer
// forms of a secret above 16 KiB, a secret below MinLength, and up to six bits at each end of a secret that stands inside a
// longer base64 text.
package redact
