"""Takes the database that was named, or makes one with a table of readings."""
import pathlib
import shutil
import sqlite3
import sys

out = pathlib.Path("out")
out.mkdir()
if sys.argv[1]:
    shutil.copyfile(sys.argv[1], out / "app.db")
    print(f"took {sys.argv[1]}")
else:
    db = sqlite3.connect(out / "app.db")
    db.execute("create table reading (id integer primary key, sensor text not null, value integer not null)")
    db.executemany("insert into reading (sensor, value) values (?, ?)", ((f"s{i % 17}", i * i % 1009) for i in range(20_000)))
    db.execute("create table note (id integer primary key, body blob)")
    db.execute("insert into note (body) values (?)", (bytes(range(256)),))
    db.commit()
    db.close()
    print("made a database with 20,001 rows")
