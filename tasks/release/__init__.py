"""Which version is the champion, and why: gate, journal, registry, and the publish stage."""
