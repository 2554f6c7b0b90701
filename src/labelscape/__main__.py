from labelscape.cli import main

main()
